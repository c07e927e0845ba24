//! When requests arrived at tasks, as the tasks tell while they answer.
//!
//! An application tells each arrival by a datagram at once, so that it counts whatever becomes of the request and of the task.
//! Invariant: an arrival has the time of the application's clock, which is this machine's.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The variable in which an application is told where to tell.
pub const VARIABLE: &str = "ARRIVALS";

/// Listens for arrivals. Dropping it ends it.
#[derive(Debug)]
pub struct Arrivals {
    address: SocketAddr,
    last: Arc<Mutex<HashMap<String, SystemTime>>>,
    listener: JoinHandle<()>,
}

impl Arrivals {
    /// Listens at a free port of this address.
    pub async fn start(at: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((at, 0)).await.with_context(|| format!("listening on {at}"))?;
        let address = socket.local_addr().context("the address for arrivals")?;
        let last = Arc::new(Mutex::new(HashMap::new()));
        let own = Arc::clone(&last);
        let listener = tokio::spawn(async move {
            let mut buffer = [0; 256];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let Some((task, at)) = read(&buffer[..length]) else { continue };
                let mut last = own.lock().unwrap_or_else(PoisonError::into_inner);
                let known = last.entry(task).or_insert(at);
                *known = at.max(*known);
            }
        });
        Ok(Self { address, last, listener })
    }

    /// Where to tell.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When the last request arrived at a task, if one ever did.
    pub fn last(&self, task: &str) -> Option<SystemTime> {
        let id = task.rsplit('/').next().unwrap_or(task);
        self.last.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What is told of an arrival now.
pub fn tell(task: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{task} {}", now.as_micros())
}

fn read(datagram: &[u8]) -> Option<(String, SystemTime)> {
    let (task, at) = std::str::from_utf8(datagram).ok()?.split_once(' ')?;
    Some((task.to_owned(), UNIX_EPOCH + Duration::from_micros(at.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_arrival_is_known_whatever_order_they_come_in() {
        let arrivals = Arrivals::start(Ipv4Addr::LOCALHOST).await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for word in ["a 2000", "a 1000", "nonsense", "b x", &tell("c")] {
            socket.send_to(word.as_bytes(), arrivals.address()).await.unwrap();
        }
        let told = async || Ok(arrivals.last("arn/c"));
        let at = crate::wait::until(Duration::from_secs(5), "the last one", told).await.unwrap();
        assert!(at.elapsed().unwrap() < Duration::from_secs(5));
        assert_eq!(arrivals.last("arn/a"), Some(UNIX_EPOCH + Duration::from_millis(2)));
        assert_eq!(arrivals.last("b"), None);
    }
}
