//! `legation bootstrap`.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Bootstrap, Exit, Outcome, Stop, Terminal};
use crate::bootstrap::{Inputs, metadata, render};

/// How long the metadata endpoint may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(asked: &Bootstrap, terminal: &mut Terminal<'_>) -> Outcome {
    let base = std::env::var(metadata::VARIABLE).ok().filter(|base| !base.is_empty());
    let text = text(asked, base.as_deref())?;
    let failed = |path: &Path, error: io::Error| {
        Stop::new(Exit::Failed, format!("can't write {}: {error}", path.display()), None)
    };
    if let Some(path) = &asked.copy_self {
        let copied = program().and_then(|program| write(path, program, 0o755));
        copied.map_err(|error| failed(path, error))?;
    }
    match &asked.out {
        None => terminal.out.write_all(text.as_bytes())?,
        Some(path) => write(path, text.as_bytes(), 0o644).map_err(|error| failed(path, error))?,
    }
    Ok(Exit::Done)
}

/// The bootstrap from flags and, without `--node-id`, from the metadata endpoint at `base`.
pub(super) fn text(asked: &Bootstrap, base: Option<&str>) -> Result<String, Stop> {
    let task = match (&asked.node_id, base) {
        (Some(_), _) => None,
        (None, Some(base)) => Some(metadata::fetch(base, PATIENCE).map_err(|error| {
            Stop::new(Exit::Failed, error, Some("give --node-id, --namespace and --service to do without it"))
        })?),
        (None, None) => {
            let message = format!("no --node-id, and this is no ECS task: {} is not set", metadata::VARIABLE);
            return Err(Stop::new(Exit::Usage, message, Some("give --node-id, --namespace and --service")));
        }
    };
    let needed = |flag: &Option<String>, known: Option<&String>, missing: &str, help: &str| {
        flag.as_ref().or(known).cloned().ok_or_else(|| Stop::new(Exit::Usage, missing, Some(help)))
    };
    let task = task.as_ref();
    let namespace = needed(
        &asked.namespace,
        task.and_then(|task| task.namespace.as_ref()),
        "the mesh namespace is not known",
        "give --namespace, or label this container with `legation.namespace`",
    )?;
    let service = needed(
        &asked.service,
        task.and_then(|task| task.service.as_ref()),
        "the service is not known",
        "give --service, or leave --node-id out so that the task says it",
    )?;
    let arn = task.and_then(|task| task.arn.as_ref());
    let node_id = needed(&asked.node_id, arn, "the task's ARN is not known", "give --node-id")?;
    let mut container_ports = asked.container_ports.clone();
    container_ports.extend(task.iter().flat_map(|task| task.container_ports.iter().copied()));
    let inputs = Inputs {
        node_id,
        cluster: asked.cluster.clone().unwrap_or_else(|| service.clone()),
        namespace,
        service,
        zone: asked.zone.clone().or_else(|| task.and_then(|task| task.zone.clone())),
        server: asked.server.clone(),
        ca_file: asked.ca_file.clone(),
        admin_port: asked.admin_port,
        container_ports,
    };
    render(&inputs).map_err(|error| Stop::new(Exit::Usage, error, None))
}

/// Ourselves: where there is `/proc`, whatever has become of the file since.
fn program() -> io::Result<File> {
    if cfg!(target_os = "linux") {
        File::open("/proc/self/exe")
    } else {
        std::env::current_exe().and_then(File::open)
    }
}

/// In one step, so that an Envoy that starts meanwhile reads all or nothing. Whatever we are allowed to keep from others
/// (umask), everybody may read it: containers of one task run as several users.
fn write(path: &Path, mut content: impl Read, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make(folder)?;
    }
    let (mut file, draft) = draft(path)?;
    let written = (|| {
        io::copy(&mut content, &mut file)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    written.inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}

/// A new file beside this one. Containers that share a folder have the same process ids, and who was killed has left a draft.
fn draft(path: &Path) -> io::Result<(File, PathBuf)> {
    for number in 0_u32.. {
        let mut draft = OsString::from(path);
        draft.push(format!(".{}.{number}.tmp", std::process::id()));
        match File::create_new(&draft) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (file, draft.into())),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// A folder with all above it; who made it may write to it, and everybody may look.
fn make(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make(above)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => {}
        // Another was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    }
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;
    use std::sync::Barrier;

    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    /// The bootstrap by these flags of a task whose metadata is `answer`.
    fn of_a_task(answer: &'static str, flags: &[&str]) -> Result<serde_json::Value, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/v4/id", listener.local_addr().unwrap());
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).unwrap();
        });
        let cli = ["legation", "bootstrap", "--server", "legation:18000"].iter().chain(flags);
        let Command::Bootstrap(asked) = Cli::try_parse_from(cli).unwrap().command else {
            panic!("{flags:?}")
        };
        let text = text(&asked, Some(&base));
        answering.join().unwrap();
        match text {
            Ok(text) => Ok(serde_json::from_str(&text).unwrap()),
            Err(Stop::Told(_, text)) => Err(text),
            Err(Stop::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn a_task_that_knows_little_is_helped_by_flags() {
        let bare = r#"{ "TaskARN": "arn:task/1", "Family": "checkout", "Containers": [{ "Name": "app" }] }"#;
        let flags = ["--namespace", "prod", "--service", "till", "--zone", "eu-west-1b"];
        let node = of_a_task(bare, &flags).unwrap()["node"].clone();
        assert_eq!((&node["id"], &node["cluster"]), (&"arn:task/1".into(), &"till".into()));
        assert_eq!(
            (&node["metadata"]["service"], &node["locality"]["zone"]),
            (&"till".into(), &"eu-west-1b".into())
        );
        let node = of_a_task(bare, &flags[..2]).unwrap()["node"].clone();
        assert_eq!(
            (&node["metadata"]["service"], &node["locality"]),
            (&"checkout".into(), &serde_json::Value::Null)
        );
        assert!(of_a_task("{}", &flags).unwrap_err().starts_with("error: the task's ARN is not known"));
        assert!(of_a_task("{}", &flags[..2]).unwrap_err().starts_with("error: the service is not known"));
    }

    #[test]
    fn files_and_their_folders_are_there_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh/bin/legation");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for (content, wanted) in [("first", 0o755), ("second, over the first", 0o644)] {
            write(&path, content.as_bytes(), wanted).unwrap();
            assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), (content, wanted));
        }
        for made in ["mesh", "mesh/bin"] {
            assert_eq!(mode(&folder.path().join(made)), 0o755, "{made}");
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
        fs::create_dir(folder.path().join("taken")).unwrap();
        write(&folder.path().join("taken"), &b"x"[..], 0o644).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left of a failure either");
    }
    #[test]
    fn any_number_may_write_one_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let writers = 8;
        let barrier = Barrier::new(writers);
        for round in 0..50 {
            let path = folder.path().join(format!("{round}/mesh/bin/legation"));
            let content = |writer: usize| writer.to_string().repeat(10_000);
            std::thread::scope(|scope| {
                for writer in 0..writers {
                    let (barrier, path) = (&barrier, &path);
                    scope.spawn(move || {
                        barrier.wait();
                        write(path, content(writer).as_bytes(), 0o644).unwrap();
                    });
                }
            });
            let text = fs::read_to_string(&path).unwrap();
            assert!((0..writers).any(|writer| text == content(writer)), "it is of several");
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
        }
    }

    #[test]
    fn a_draft_is_a_new_file_whatever_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("envoy.yaml"), folder.path().join("other"));
        fs::write(&other, "others'").unwrap();
        let left = [".tmp".to_owned(), format!(".{}.0.tmp", std::process::id())];
        for name in left {
            symlink(&other, folder.path().join(format!("envoy.yaml{name}"))).unwrap();
        }
        write(&path, &b"ours"[..], 0o644).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap(), fs::read_to_string(&other).unwrap()),
            ("ours".into(), "others'".into())
        );
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }
}
