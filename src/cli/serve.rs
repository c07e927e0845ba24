//! `legation serve`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::table::clean;
use super::validate::{examine, read, report};
use super::{Exit, Format, Outcome, Serve, Stop, Terminal, environment};
use crate::config::Config;
use crate::diagnostic::{Entries, read_yaml};
use crate::source::file;
use crate::{app, telemetry};

/// The variable that may hold the configuration's text, and the name that it has in messages then.
const CONFIG_TEXT: &str = "LEGATION_CONFIG";

pub(super) fn run(serve: &Serve, terminal: &mut Terminal<'_>) -> Outcome {
    let (name, text) = configuration(serve.config.as_deref(), environment(), terminal.err)?;
    let config = Config::parse(&name, &text, environment());
    // Two files that don't agree keep no server from starting: the first has its way, and it is a finding.
    let look = if serve.check_config { file::examine_together } else { file::examine };
    let problems = match &config {
        Ok(config) => examine(config, look),
        Err(problems) => problems.clone(),
    };
    let config = match config {
        Ok(config) if problems.is_empty() && !serve.check_config => config,
        _ => return report(&problems, Format::Table, terminal),
    };
    telemetry::start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Stop::new(Exit::Failed, format!("can't start: {error}"), None))?;
    let outcome = runtime.block_on(app::serve(config));
    // A thread that waits for a medium that does not answer must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Stop::new(Exit::Failed, format!("{error:#}"), None)),
    }
}

/// The configuration that a server is to have, with its name: the file, or else the text in the environment.
pub(super) fn configuration(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    err: &mut dyn Write,
) -> Result<(PathBuf, String), Stop> {
    let mut texts = environment.into_iter().filter(|(name, _)| name == CONFIG_TEXT).map(|(_, text)| text);
    let text = texts.find(|text| !text.trim().is_empty());
    if let Some(file) = file {
        if text.is_some() {
            // A server starts also where nobody reads this.
            let _: io::Result<()> = writeln!(
                err,
                "warning: {CONFIG_TEXT} is not read, because --config names {}",
                file.display()
            );
        }
        return Ok((file.to_owned(), read(file)?));
    }
    let text = text.ok_or_else(|| {
        let help = format!("give --config FILE, or the text of the configuration in {CONFIG_TEXT}");
        Stop::new(Exit::Usage, "no configuration", Some(&help))
    })?;
    if is_path(&text) {
        let message = format!("{CONFIG_TEXT} holds no configuration but `{}`", clean(&text));
        let help = "it is for the configuration's text; a file is named by --config";
        return Err(Stop::new(Exit::Usage, message, Some(help)));
    }
    Ok((CONFIG_TEXT.into(), text))
}

/// One line that YAML takes for a word and not for a map is likely the path of a configuration.
fn is_path(text: &str) -> bool {
    let (name, line) = (Path::new(CONFIG_TEXT), text.trim());
    !line.contains('\n')
        && read_yaml::<Entries<IgnoredAny>>(name, line).is_err()
        && read_yaml::<String>(name, line).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(file: Option<&Path>, text: &str) -> (Result<(PathBuf, String), String>, String) {
        let (environment, mut err) = ([("LEGATION_CONFIG".to_owned(), text.to_owned())], Vec::new());
        let told = configuration(file, environment, &mut err).map_err(|stop| match stop {
            Stop::Told(exit, text) => {
                assert_eq!(exit, Exit::Usage);
                text
            }
            Stop::Io(error) => panic!("{error}"),
        });
        (told, String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_file_goes_before_the_text_and_whoever_gives_both_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("legation.yaml");
        std::fs::write(&file, "a: file\n").unwrap();
        let (found, err) = told(Some(&file), "a: text\n");
        assert_eq!(found.unwrap(), (file.clone(), "a: file\n".to_owned()));
        assert_eq!(
            err,
            format!("warning: LEGATION_CONFIG is not read, because --config names {}\n", file.display())
        );
        assert_eq!(told(Some(&file), " ").1, "");
    }

    #[test]
    fn a_text_is_told_from_a_path() {
        for text in [
            "a: text\n",
            "{}",
            "{ namespaces: {} }",
            "# nothing\n{}\n",
            "{ namespaces: [",
            "[]",
            "- a",
            "a\nb\n",
        ] {
            assert_eq!(told(None, text), (Ok(("LEGATION_CONFIG".into(), text.to_owned())), String::new()));
        }
        for path in
            ["/etc/legation.yaml", "/etc/a:b.yaml\n", "legation.yaml", "C:legation.yaml", "s3://a/b.yaml"]
        {
            let text = told(None, path).0.unwrap_err();
            assert!(text.contains(path.trim()) && text.contains("a file is named by --config"), "{text}");
        }
        assert!(told(None, " \n").0.unwrap_err().contains("no configuration"));
    }
}
