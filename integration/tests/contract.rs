//! Holds the AWS-like endpoint to botocore's service models.
//!
//! The comparison itself is in `python/test_contract.py` and `python/test_faults.py`; this starts the endpoint as its own
//! process and runs the comparison against it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The endpoint's process, which ends with the test.
struct Endpoint(Child);

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn answers_have_the_shapes_of_the_service_models() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let setup = Command::new(here.join("setup.sh")).status().expect("setup.sh runs");
    assert!(setup.success(), "setup.sh failed: {setup}");

    let mut process = Command::new(env!("CARGO_BIN_EXE_fake_aws"))
        .args(["--gallery", "--faulty", "--until-eof"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the endpoint starts");
    let out = process.stdout.take().expect("its output is piped");
    let _endpoint = Endpoint(process);
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).expect("it prints its URL");

    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
    let tests = Command::new(here.join("..").join(target).join("python/bin/python"))
        .args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "test_contract.py", "test_faults.py"])
        .current_dir(here.join("python"))
        .env("LEGATION_FAKE_AWS", line.trim())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("pytest runs");
    let said = String::from_utf8_lossy(&tests.stdout);
    assert!(tests.status.success(), "{said}\n{}", String::from_utf8_lossy(&tests.stderr));
}
