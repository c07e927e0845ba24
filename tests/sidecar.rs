//! `legation sidecar run` and `drain` as processes: signals, orphans, times and exit codes.
//!
//! Envoy is played here by a thread that answers as its admin pages do; `integration` has the real one. Invariant: every
//! wait is for something that can be observed, and no child outlives its test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A helper, with what its command says.
struct Helper {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Helper {
    fn start(arguments: &[&str], script: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_legation"));
        command.args(["sidecar", "run"]).args(arguments).args(["--", "/bin/sh", "-c", script]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The next line of the command.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn signal(&self, signal: &str) {
        send(signal, self.child.id());
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end");
    }

    fn code(&mut self) -> i32 {
        self.ended().code().unwrap()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn send(signal: &str, process: u32) {
    let sent = Command::new("/bin/sh").args(["-c", &format!("kill -s {signal} {process}")]).status();
    assert!(sent.unwrap().success());
}

/// What the kernel says of a process: `Z` for one that has ended and was not reaped.
fn state(process: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

/// A child that ends when it is told, and says what it hears.
const LOOP: &str = "while :; do sleep 0.02 & wait $!; done";

fn hears(signals: &str) -> String {
    let traps: String = signals.split(' ').map(|it| format!("trap 'echo {it}' {it}; ")).collect();
    format!("{traps}trap 'echo TERM; exit 7' TERM; echo up; {LOOP}")
}

#[test]
fn a_commands_code_is_the_helpers() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -s KILL $$", 137), ("kill -s TERM $$", 143)] {
        assert_eq!(Helper::start(&[], script).code(), code, "{script}");
    }
}

#[test]
fn a_command_that_cannot_be_started_ends_as_in_a_shell() {
    for (program, code) in [("/nowhere/server", 127), ("/etc/passwd", 126)] {
        let output = Command::new(env!("CARGO_BIN_EXE_legation"))
            .args(["sidecar", "run", "--", program])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.starts_with(&format!("error: can't start {program}: ")), "{told}");
    }
}

#[test]
fn signals_are_passed_on_and_the_end_at_once_where_nothing_is_put_off() {
    let signals = "HUP INT QUIT ABRT USR1 USR2 ALRM CONT TSTP TTIN TTOU URG VTALRM PROF WINCH";
    let mut helper = Helper::start(&[], &hears(signals));
    assert_eq!(helper.line(), "up");
    for signal in signals.split(' ') {
        helper.signal(signal);
        assert_eq!(helper.line(), signal);
    }
    helper.signal("TERM");
    assert_eq!((helper.line().as_str(), helper.code()), ("TERM", 7));
}

#[test]
fn orphans_are_reaped() {
    // The orphan's parent ends before it; the command goes on.
    let script = format!("( sleep 0.05 & echo $! ) ; trap 'exit 0' TERM; {LOOP}");
    let mut helper = Helper::start(&[], &script);
    let orphan: u32 = helper.line().parse().unwrap();
    let deadline = Instant::now() + LIMIT;
    while state(orphan).is_some() {
        assert!(Instant::now() < deadline, "it is left in state {:?}", state(orphan));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(helper.child.try_wait().unwrap(), None, "the end of an orphan is not the command's");
    helper.signal("TERM");
    assert_eq!(helper.code(), 0);
}

#[test]
fn a_hold_puts_the_stop_signal_off_and_no_other() {
    let mut helper = Helper::start(&["--hold", "1s"], &hears("USR1"));
    assert_eq!(helper.line(), "up");
    let asked = Instant::now();
    helper.signal("TERM");
    helper.signal("USR1");
    assert_eq!(helper.line(), "USR1");
    assert_eq!((helper.line().as_str(), helper.code()), ("TERM", 7));
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[test]
fn a_second_stop_signal_or_the_commands_own_end_ends_the_wait() {
    let mut helper = Helper::start(&["--hold", "1h"], &hears("USR1"));
    assert_eq!(helper.line(), "up");
    helper.signal("TERM");
    // Signals of one kind that come together are one, so the next comes when this one was taken in.
    helper.signal("USR1");
    assert_eq!(helper.line(), "USR1");
    helper.signal("TERM");
    assert_eq!((helper.line().as_str(), helper.code()), ("TERM", 7));

    let mut helper = Helper::start(&["--hold", "1h"], &format!("trap 'exit 4' USR1; echo up; {LOOP}"));
    assert_eq!(helper.line(), "up");
    helper.signal("TERM");
    helper.signal("USR1");
    assert_eq!(helper.code(), 4);
}

#[test]
fn the_stop_signal_is_the_images() {
    for stop in ["QUIT", "INT", "HUP", "USR1", "WINCH"] {
        let script = format!("trap 'echo {stop}; exit 0' {stop}; trap 'echo TERM' TERM; echo up; {LOOP}");
        let mut helper =
            Helper::start(&["--hold", "1s", "--stop-signal", &stop.to_ascii_lowercase()], &script);
        assert_eq!(helper.line(), "up");
        let asked = Instant::now();
        helper.signal(stop);
        helper.signal("TERM");
        assert_eq!(helper.line(), "TERM", "it asks for nothing here, and is passed on");
        assert_eq!((helper.line().as_str(), helper.code()), (stop, 0));
        assert!(asked.elapsed() >= Duration::from_secs(1), "{stop}: {:?}", asked.elapsed());
    }
}

/// Answers as an Envoy's admin pages do.
#[derive(Clone)]
struct Pages {
    address: SocketAddr,
    /// Open inbound connections, and outbound ones.
    open: Arc<[AtomicU64; 2]>,
    /// The application's port, and the connections to it.
    application: Arc<[AtomicU64; 2]>,
    /// How often connections were counted.
    looks: Arc<AtomicU64>,
    /// Orders that came.
    orders: Arc<Mutex<Vec<String>>>,
    /// The alias that it listens for, once it does.
    alias: Arc<Mutex<Option<&'static str>>>,
}

impl Pages {
    fn open(inbound: u64, outbound: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Self {
            address,
            open: Arc::new([inbound.into(), outbound.into()]),
            // Where there is an application for sure.
            application: Arc::new([u64::from(address.port()).into(), 0.into()]),
            looks: Arc::default(),
            orders: Arc::default(),
            alias: Arc::default(),
        };
        let played = pages.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, pages) = (stream.unwrap(), played.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    loop {
                        let mut head = String::new();
                        while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
                        let Some(asked) = head.lines().next() else { return };
                        let body = pages.answer(asked);
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all((head + &body).as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        pages
    }

    fn set(&self, inbound: u64, outbound: u64) {
        self.open[0].store(inbound, Ordering::SeqCst);
        self.open[1].store(outbound, Ordering::SeqCst);
    }

    fn answer(&self, asked: &str) -> String {
        let alias = *self.alias.lock().unwrap();
        let mut words = asked.split(' ');
        match (words.next(), words.next()) {
            (Some("POST"), Some(path)) => {
                self.orders.lock().unwrap().push(path.to_owned());
                "OK\n".to_owned()
            }
            (_, Some(path)) if path.starts_with("/listeners?") => {
                let alias = alias.map_or(String::new(), |name| {
                format!(r#",{{"name":"{name}","local_address":{{"socket_address":{{"address":"127.200.0.1","port_value":80}}}}}}"#)
            });
                format!(
                    r#"{{"listener_statuses":[{{"name":"prod/@inbound/a/a:80","local_address":{{"socket_address":{{"address":"0.0.0.0","port_value":15006}}}}}}{alias}]}}"#
                )
            }
            (_, Some(path)) if path.starts_with("/clusters?") => {
                let [port, count] =
                    [&self.application[0], &self.application[1]].map(|it| it.load(Ordering::SeqCst));
                // Envoy leaves zero out.
                let used = if count == 0 { String::new() } else { format!(r#""value":"{count}","#) };
                format!(
                    r#"{{"cluster_statuses":[{{"name":"prod/a"}},{{"name":"prod/@inbound/a/a:80","host_statuses":[{{"address":{{"socket_address":{{"address":"127.0.0.1","port_value":{port}}}}},"stats":[{{"name":"cx_active",{used}"type":"GAUGE"}}]}}]}}]}}"#
                )
            }
            _ => {
                let [inbound, outbound] =
                    [&self.open[0], &self.open[1]].map(|count| count.load(Ordering::SeqCst));
                self.looks.fetch_add(1, Ordering::SeqCst);
                let lds = u64::from(alias.is_some());
                let stats = [
                    ("listener.0.0.0.0_15006.downstream_cx_active", inbound),
                    ("listener.127.200.0.1_80.downstream_cx_active", outbound),
                    ("listener.admin.downstream_cx_active", 1),
                    ("listener_manager.lds.update_success", lds),
                ];
                let stats = stats.map(|(name, value)| format!(r#"{{"name":"{name}","value":{value}}}"#));
                format!(r#"{{"stats":[{}]}}"#, stats.join(","))
            }
        }
    }

    /// Waits until connections were counted for longer than it takes to be sure that there are none.
    fn until_seen(&self) {
        let (before, deadline) = (self.looks.load(Ordering::SeqCst), Instant::now() + LIMIT);
        while self.looks.load(Ordering::SeqCst) < before + 8 {
            assert!(Instant::now() < deadline, "connections are not counted");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn until_ordered(&self) {
        let deadline = Instant::now() + LIMIT;
        while self.orders.lock().unwrap().len() < 2 {
            assert!(Instant::now() < deadline, "{:?}", self.orders.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        let orders = self.orders.lock().unwrap();
        assert_eq!(*orders, ["/healthcheck/fail", "/drain_listeners?graceful&skip_exit&inboundonly"]);
    }
}

#[test]
fn envoy_is_told_to_end_when_nobody_is_connected_and_at_the_bound_at_the_latest() {
    let script = hears("USR1");
    let pages = Pages::open(2, 1);
    let admin = pages.address.to_string();
    let mut helper = Helper::start(&["--drain", "1h", "--admin", &admin], &script);
    assert_eq!(helper.line(), "up");
    helper.signal("TERM");
    pages.until_ordered();
    pages.set(0, 1);
    pages.until_seen();
    helper.signal("USR1");
    assert_eq!(helper.line(), "USR1", "the task's own calls count too");
    pages.set(0, 0);
    assert_eq!((helper.line().as_str(), helper.code()), ("TERM", 7));

    let pages = Pages::open(2, 0);
    let admin = pages.address.to_string();
    let mut helper = Helper::start(&["--drain", "1s", "--admin", &admin], &script);
    assert_eq!(helper.line(), "up");
    let asked = Instant::now();
    helper.signal("TERM");
    assert_eq!((helper.line().as_str(), helper.code()), ("TERM", 7));
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    pages.until_ordered();
}

#[test]
fn clients_of_an_application_that_has_ended_are_not_waited_for() {
    let pages = Pages::open(2, 0);
    pages.application[1].store(1, Ordering::SeqCst);
    pages.application[0].store(1, Ordering::SeqCst);
    let admin = pages.address.to_string();
    let mut helper = Helper::start(&["--drain", "1h", "--admin", &admin], &hears("USR1"));
    assert_eq!(helper.line(), "up");
    helper.signal("TERM");
    pages.until_seen();
    helper.signal("USR1");
    assert_eq!(helper.line(), "USR1", "its port is closed, and it answers what it has been asked");
    pages.application[1].store(0, Ordering::SeqCst);
    assert_eq!((helper.line().as_str(), helper.code()), ("TERM", 7));
}

#[test]
fn an_envoy_that_is_not_there_is_not_waited_for() {
    let mut helper = Helper::start(&["--drain", "1h", "--admin", "127.0.0.1:1"], &hears("USR1"));
    assert_eq!(helper.line(), "up");
    helper.signal("TERM");
    assert_eq!((helper.line().as_str(), helper.code()), ("TERM", 7));
}

#[test]
fn a_drain_returns_when_inbound_connections_have_gone_and_says_how_it_came_out() {
    let drain = |address: SocketAddr, bound: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_legation"));
        command.args(["sidecar", "drain", "--admin", &address.to_string(), "--for", bound]);
        command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let told = |mut child: Child| {
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    };
    let pages = Pages::open(3, 5);
    let child = drain(pages.address, "1h");
    pages.until_ordered();
    pages.set(0, 5);
    let (code, text) = told(child);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("drained: no client is connected any more, after "), "{text}");
    pages.set(4, 0);
    assert_eq!(
        told(drain(pages.address, "300ms")),
        (Some(0), "the time is over: inbound connections left: 4\n".to_owned())
    );
    let (code, text) = told(drain("127.0.0.1:1".parse().unwrap(), "1h"));
    assert_eq!((code, text.as_str()), (Some(1), "error: no Envoy listens at 127.0.0.1:1\n"));
}

#[test]
fn the_program_copies_itself_for_whoever_may_not_read_what_root_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (copy, bootstrap) = (folder.path().join("mesh/bin/legation"), folder.path().join("mesh/envoy.yaml"));
    let asked = "umask 077; exec \"$0\" bootstrap --server legation:18000 --namespace prod --service checkout \
                 --node-id checkout-1 --out \"$1\" --copy-self \"$2\"";
    for _ in 0..2 {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", asked, env!("CARGO_BIN_EXE_legation")]).args([&bootstrap, &copy]);
        assert!(command.status().unwrap().success(), "also over what is there");
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (path, expected) in
        [("mesh", 0o755), ("mesh/bin", 0o755), ("mesh/bin/legation", 0o755), ("mesh/envoy.yaml", 0o644)]
    {
        assert_eq!(mode(&folder.path().join(path)), expected, "{path}");
    }
    let output =
        Command::new(&copy).args(["sidecar", "run", "--", &copy.display().to_string(), "--version"]).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert_eq!(said, format!("legation {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn names_are_there_before_the_command_and_follow_envoy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    std::fs::write(&file, "127.0.0.1 localhost\n").unwrap();
    let pages = Pages::open(0, 0);
    *pages.alias.lock().unwrap() = Some("prod/payments:80");
    let (admin, path) = (pages.address.to_string(), file.display().to_string());
    let script = format!("grep -c payments '{path}'; trap 'exit 0' TERM; {LOOP}");
    let mut helper = Helper::start(&["--hosts", "--hosts-file", &path, "--admin", &admin], &script);
    assert_eq!(helper.line(), "1", "the command finds them");
    let text = || std::fs::read_to_string(&file).unwrap();
    let one = text();
    assert!(
        one.starts_with("127.0.0.1 localhost\n") && one.contains("\n127.200.0.1 payments payments.prod\n"),
        "{one}"
    );
    *pages.alias.lock().unwrap() = Some("prod/ledger:80");
    let deadline = Instant::now() + LIMIT;
    while text() != one.replace("payments", "ledger") {
        assert!(Instant::now() < deadline, "{}", text());
        std::thread::sleep(Duration::from_millis(20));
    }
    helper.signal("TERM");
    assert_eq!(helper.code(), 0);
}

#[test]
fn what_is_told_to_end_before_its_command_has_started_ends_and_starts_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    std::fs::write(&file, "127.0.0.1 localhost\n").unwrap();
    for (signal, code) in [("TERM", 143), ("INT", 130), ("QUIT", 131), ("HUP", 129), ("WINCH", 156)] {
        // It tells of no names.
        let pages = Pages::open(0, 0);
        let (admin, path) = (pages.address.to_string(), file.display().to_string());
        let arguments = ["--hosts", "--hosts-file", &path, "--admin", &admin, "--stop-signal", "winch"];
        let mut helper = Helper::start(&arguments, "echo started; exit 3");
        let deadline = Instant::now() + LIMIT;
        while pages.looks.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "names are not asked for");
            std::thread::sleep(Duration::from_millis(5));
        }
        helper.signal(signal);
        assert_eq!((helper.line().as_str(), helper.code()), ("", code), "{signal}");
    }
}

#[test]
fn a_hosts_file_that_cannot_be_kept_keeps_nobody_from_running() {
    let pages = Pages::open(0, 0);
    *pages.alias.lock().unwrap() = Some("prod/payments:80");
    let admin = pages.address.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_legation"))
        .args(["sidecar", "run", "--hosts", "--hosts-file", "/dev/null/hosts", "--admin", &admin])
        .args(["--", "/bin/sh", "-c", "exit 5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.matches("can't keep /dev/null/hosts: ").count(), 1, "{told}");
    assert!(told.contains("readonlyRootFilesystem"), "{told}");
}
