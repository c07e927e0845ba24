//! `legation ready`.

use super::{Exit, Outcome, Ready, Stop};

/// Where health is told unless something else is configured.
pub(super) const USUAL: &str = "http://127.0.0.1:9090";
/// More than the words for every source.
const LONGEST_ANSWER: u64 = 1 << 20;

pub(super) fn run(asked: &Ready) -> Outcome {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(asked.timeout))
        .http_status_as_error(false)
        .proxy(None) // it is asked where it runs
        .build()
        .into();
    let unreachable = |error: ureq::Error| {
        Stop::new(Exit::Unreachable, format!("no control plane answers at {}: {error}", asked.server), None)
    };
    let mut answer = agent.get(format!("{}/readyz", asked.server)).call().map_err(unreachable)?;
    let text = answer.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string().map_err(unreachable)?;
    if answer.status().is_success() && text == "ready\n" {
        return Ok(Exit::Done);
    }
    // What holds it up stands before the verdict.
    let why = text.lines().find_map(|line| line.strip_prefix("[-]"));
    let why = why.unwrap_or("what answers is not Legation's /readyz");
    Err(Stop::Told(Exit::Failed, format!("not ready: {why}")))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    /// What is told where one request is answered so.
    fn told(head: &str, body: &str) -> (Exit, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "GET /readyz HTTP/1.1");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let outcome = run(&Ready { server, timeout: Duration::from_secs(20) });
        answering.join().unwrap();
        match outcome {
            Ok(exit) => (exit, String::new()),
            Err(Stop::Told(exit, text)) => (exit, text),
            Err(Stop::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn only_ready_is_ready() {
        assert_eq!(told("200 OK", "ready\n"), (Exit::Done, String::new()));
        let waiting = "[+]shutdown none\n[-]prod-a not read yet\nnot ready\n";
        assert_eq!(
            told("503 Service Unavailable", waiting),
            (Exit::Failed, "not ready: prod-a not read yet".to_owned())
        );
        let strange = "not ready: what answers is not Legation's /readyz".to_owned();
        assert_eq!(told("200 OK", "<html>"), (Exit::Failed, strange.clone()));
        assert_eq!(told("404 Not Found", "ready\n"), (Exit::Failed, strange));
    }

    #[test]
    fn a_server_that_says_nothing_is_unreachable_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let asked = Ready { server, timeout: Duration::from_millis(100) };
        assert!(matches!(run(&asked), Err(Stop::Told(Exit::Unreachable, _))));
    }
}
