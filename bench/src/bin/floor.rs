//! What the kernel takes, whoever serves: the same bytes to as many connections, and a short answer from each.
//!
//! It speaks nothing: `open N` waits for so many connections, `push BYTES` writes so many to each and waits for all
//! answers; both are answered by `ok`. Invariant: one write and one read for each connection and push, where the
//! kernel lets it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;

use anyhow::Context;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// The answer to a push: as long as the ACK of a response.
const ANSWER: usize = 128;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "floor ADDRESS CONTROL";
    let clients = TcpListener::bind(arguments.next().context(usage)?).context("listening for clients")?;
    let control = TcpListener::bind(arguments.next().context(usage)?).context("listening for orders")?;
    let (control, _) = control.accept().context("accepting who gives orders")?;
    control.set_nodelay(true)?;
    let (mut orders, mut answers) = (BufReader::new(control.try_clone()?).lines(), control);
    let (mut poll, mut connections) = (Poll::new()?, Vec::new());
    while let Some(order) = orders.next().transpose()? {
        let number = |text: &str| text.parse::<usize>().with_context(|| format!("no number: {order}"));
        match order.split_once(' ') {
            Some(("open", count)) => open(&clients, number(count)?, &poll, &mut connections)?,
            Some(("push", bytes)) => push(number(bytes)?, &mut poll, &mut connections)?,
            _ => anyhow::bail!("unknown order: {order}"),
        }
        answers.write_all(b"ok\n").context("answering")?;
    }
    Ok(())
}

fn open(
    clients: &TcpListener,
    count: usize,
    poll: &Poll,
    connections: &mut Vec<TcpStream>,
) -> anyhow::Result<()> {
    while connections.len() < count {
        let (client, _) = clients.accept().context("accepting a client")?;
        client.set_nodelay(true)?;
        client.set_nonblocking(true)?;
        let mut client = TcpStream::from_std(client);
        poll.registry().register(&mut client, Token(connections.len()), Interest::READABLE)?;
        connections.push(client);
    }
    Ok(())
}

fn push(bytes: usize, poll: &mut Poll, connections: &mut [TcpStream]) -> anyhow::Result<()> {
    let message = vec![0; bytes];
    for client in connections.iter_mut() {
        write_all(client, &message)?;
    }
    let mut missing = vec![ANSWER; connections.len()];
    let (mut left, mut events) = (connections.len(), Events::with_capacity(1024));
    let mut buffer = [0; ANSWER];
    while left > 0 {
        poll.poll(&mut events, None).context("waiting for answers")?;
        for event in &events {
            let Token(place) = event.token();
            loop {
                match connections[place].read(&mut buffer) {
                    Ok(0) => anyhow::bail!("a client is gone"),
                    Ok(read) => {
                        missing[place] = missing[place].checked_sub(read).context("a long answer")?;
                        left -= usize::from(missing[place] == 0);
                        if missing[place] == 0 {
                            break; // nothing more comes, and to ask would be one more call
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("reading an answer"),
                }
            }
        }
    }
    Ok(())
}

/// Waits where the kernel's buffer is full, which only large messages reach.
fn write_all(client: &mut TcpStream, mut message: &[u8]) -> anyhow::Result<()> {
    while !message.is_empty() {
        match client.write(message) {
            Ok(written) => message = &message[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error).context("writing"),
        }
    }
    Ok(())
}
