//! What people install: the chart, the templates, the modules, the task definition, and the guides that lead through them.
//!
//! The checks are in `python/`, where the validators of Helm, Kubernetes, CloudFormation and AWS are. Invariant: none of them
//! is skipped; each fails where what it needs is missing.

use std::ffi::OsStr;

use integration::control_plane;
use integration::python::pytest;

fn check(files: &[&str]) -> anyhow::Result<()> {
    let legation = control_plane::binary()?;
    let fake_aws = env!("CARGO_BIN_EXE_fake_aws");
    let environment =
        [("LEGATION_BIN", legation.as_os_str()), ("LEGATION_FAKE_AWS_BIN", OsStr::new(fake_aws))];
    print!("{}", pytest(files, environment)?);
    Ok(())
}

#[test]
fn the_chart_renders_what_kubernetes_takes() -> anyhow::Result<()> {
    check(&["test_chart.py"])
}

#[test]
fn templates_modules_and_task_definition_are_valid_and_agree() -> anyhow::Result<()> {
    check(&["test_deploy.py", "test_deploy_mutants.py", "test_deploy_commands.py"])
}

#[test]
fn every_command_of_the_guides_works() -> anyhow::Result<()> {
    check(&["test_docs.py"])
}
