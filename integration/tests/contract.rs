//! Holds the AWS-like endpoint to botocore's service models.
//!
//! The comparison itself is in `python/test_contract.py` and `python/test_faults.py`; this starts the endpoint as its own
//! process and runs the comparison against it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use integration::python::pytest;

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

    let url = std::ffi::OsString::from(line.trim());
    let tests = pytest(&["test_contract.py", "test_faults.py"], [("LEGATION_FAKE_AWS", url.as_os_str())]);
    tests.unwrap_or_else(|error| panic!("{error:#}"));
}
