//! What people install: the chart, the templates, the modules, the task definition, and the guides that lead through them.
//!
//! The checks are in `python/`, where the validators of Helm, Kubernetes, CloudFormation and AWS are.

use std::ffi::OsStr;

use integration::control_plane;
use integration::python::pytest;

fn check(files: &[&str]) {
    let legation = control_plane::binary().unwrap();
    let fake_aws = env!("CARGO_BIN_EXE_fake_aws");
    let environment =
        [("LEGATION_BIN", legation.as_os_str()), ("LEGATION_FAKE_AWS_BIN", OsStr::new(fake_aws))];
    let said = pytest(files, environment).unwrap_or_else(|error| panic!("{error:#}"));
    print!("{said}");
}

#[test]
fn the_chart_renders_what_kubernetes_takes() {
    check(&["test_chart.py"]);
}

#[test]
fn templates_modules_and_task_definition_are_valid_and_agree() {
    check(&["test_deploy.py", "test_deploy_mutants.py", "test_deploy_commands.py"]);
}
