//! The demo as a person runs it: it keeps its promises, stands until it is told to end, and leaves nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use integration::http::get;
use integration::process::Process;
use integration::scene::play_alone;
use integration::wait;

/// The stops take most of it.
const SHOWN: Duration = Duration::from_secs(180);
const ENDED: Duration = Duration::from_secs(30);

/// The process ids in the line that begins with `name`.
fn pids(text: &str, name: &str) -> Vec<u32> {
    let line = text.lines().find(|line| line.trim_start().starts_with(name));
    let after = line.and_then(|line| line.split_once("pid")).map(|(_, after)| after).unwrap_or_default();
    let words = after.split(',').next().unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn it_shows_what_it_claims_and_leaves_nothing_behind() -> anyhow::Result<()> {
    play_alone("demo", async |scene| {
        let log = scene.folder().join("demo.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        // It waits for its turn as well, and would wait for this test.
        command.env_remove("ONCE").env("TMPDIR", scene.folder());
        let mut demo = Process::start("demo", command, &log)?;
        let said = || std::fs::read_to_string(&log);
        wait::until(SHOWN, "the demo to run on", async || {
            demo.still_runs()?;
            Ok(said()?.contains("Ctrl-C ends it").then_some(()))
        })
        .await?;
        let text = said()?;
        assert!(!text.contains('\x1b'), "escape sequences in a file:\n{text}");
        assert!(text.contains("24 withdrawals") && text.contains("seen → last ACK"), "{text}");
        assert!(!text.contains('✗') && text.matches('✓').count() == 5, "{text}");

        let pids = [pids(&text, "Envoys "), pids(&text, "Legation ")].concat();
        let alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        assert!(pids.len() == 3 && pids.iter().all(alive), "one has ended of {pids:?}:\n{text}");
        let urls = text.split_whitespace().map(|word| word.trim_matches('\''));
        let mut asked = 0;
        for url in urls.filter(|url| url.starts_with("http://127.0.0.1") && url.matches('/').count() > 2) {
            let (address, path) = url["http://".len()..].split_once('/').unwrap_or_default();
            let answer = get(address.parse()?, &format!("/{path}")).await?;
            assert!(answer.status.is_success(), "{url}: {}", answer.status);
            asked += 1;
        }
        assert!(asked >= 6, "hardly a URL is shown:\n{text}");

        assert!(demo.terminate(ENDED).await?.success(), "it ended badly:\n{}", said()?);
        assert!(!pids.iter().any(alive), "something was left behind");
        Ok(())
    })
}
