//! The helper in a task, with stock Envoy as its command: when it says ready, how it lets clients go, which names it keeps.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::Router;
use axum::routing::get;
use integration::control_plane::{ControlPlane, Setup, Sources};
use integration::http::{self, Answer};
use integration::process::Process;
use integration::scene::{Scene, play};
use integration::shop::{self, ServicesFile};
use integration::{control_plane, envoy, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(30);
/// Where the application of the task listens, and where its sidecar does for others.
const APPLICATION: &str = "127.0.0.1:8095";
const INBOUND: &str = "127.0.0.1:15096";
const SERVICES: &str = "\
services:
  payments:
    appProtocol: http
    aliases: [{ name: payments, port: 8099 }]
    endpoints: [{ address: 127.9.9.1, port: 8080 }]
  till:
    appProtocol: http
    aliases: [{ name: till, port: 8098 }]
    endpoints: [{ address: 127.9.9.120, port: 8095 }]
";
const POLICY: &str = "\
apiVersion: legation/v1alpha1
kind: Policy
services: { till: { inbound: { mode: sidecar, port: 15096 } } }
";

/// An application that answers at once, and on `/slow` when it is let.
#[derive(Clone, Default)]
struct Application {
    asked: Arc<Notify>,
    let_go: Arc<Notify>,
    end: Arc<Notify>,
}

impl Application {
    fn router(&self) -> Router {
        let Self { asked, let_go, .. } = self.clone();
        let slow = get(async move || {
            asked.notify_one();
            let_go.notified().await;
            "at last"
        });
        Router::new().route("/slow", slow).fallback(async || "at once")
    }
}

/// A control plane that does not run yet, and an Envoy that is run by the helper as in a task.
struct Task {
    server: ControlPlane,
    services: ServicesFile,
    helper: Process,
    admin: SocketAddr,
    payments: Application,
    till: Application,
}

fn helper(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(control_plane::binary()?);
    command.arg("sidecar").args(arguments);
    Ok(command)
}

impl Task {
    async fn open(scene: &Scene, drain: &str) -> anyhow::Result<Self> {
        let (payments, till) = (Application::default(), Application::default());
        shop::serve(1, payments.router()).await?;
        let listener = TcpListener::bind(APPLICATION).await.context("the application")?;
        let (router, end) = (till.router(), till.end.clone());
        let serving =
            axum::serve(listener, router).with_graceful_shutdown(async move { end.notified().await });
        tokio::spawn(serving.into_future());

        let folder = scene.folder();
        let services = ServicesFile::new(folder, SERVICES)?;
        let policy = scene.room("policies")?.join("inbound.yaml");
        std::fs::write(&policy, POLICY).context("writing a policy")?;
        let sources = Sources { files: vec![services.path().to_owned()], ..Sources::default() };
        let setup = Setup { policies: vec![policy], ..Setup::files() }.namespace("shop", sources);
        let server = ControlPlane::prepare(folder, &setup)?;

        // It gives up waiting for its control plane after 15 s, as everybody's; here sooner.
        let bootstrap = server.bootstrap(&shop::sidecar("shop"))?;
        let ads = r#""ads": {}"#;
        ensure!(bootstrap.contains(ads), "nothing comes over ADS");
        let bootstrap = bootstrap.replace(ads, r#""ads": {}, "initial_fetch_timeout": "0.2s""#);
        let parsed: serde_json::Value = serde_json::from_str(&bootstrap)?;
        let port = parsed["admin"]["address"]["socket_address"]["port_value"].as_u64().context("no port")?;
        let admin: SocketAddr = format!("127.0.0.1:{port}").parse()?;
        let file = folder.join("envoy.yaml");
        std::fs::write(&file, bootstrap).context("writing the bootstrap")?;
        let mut command = helper(&["run", "--drain", drain, "--admin", &admin.to_string(), "--"])?;
        command.arg(envoy::binary()?).arg("--config-path").arg(file);
        command.args(["--use-dynamic-base-id", "--concurrency", "2", "--log-level", "info"]);
        let helper = Process::start("the helper", command, &folder.join("envoy.log"))?;
        Ok(Self { server, services, helper, admin, payments, till })
    }

    /// What the health check says: nothing if all is well.
    fn health(&self) -> anyhow::Result<String> {
        let output = helper(&["ready", "--admin", &self.admin.to_string()])?.output()?;
        let told = String::from_utf8(output.stderr)?;
        match output.status.code() {
            Some(0) if told.is_empty() => Ok(told),
            Some(1) if told.starts_with("not ready: ") && told.lines().count() == 1 => {
                Ok(told.trim().to_owned())
            }
            code => anyhow::bail!("it ended with {code:?}: {told}"),
        }
    }

    async fn until_health_is(&mut self, expected: &str) -> anyhow::Result<()> {
        wait::until(LIMIT, format!("the health check to say {expected:?}"), async || {
            self.helper.still_runs()?;
            let told = self.health()?;
            ensure!(told == expected, "it says {told:?}");
            Ok(Some(()))
        })
        .await
    }

    async fn serve(&mut self) -> anyhow::Result<()> {
        let url = self.server.metrics().to_string();
        let told = |server: &ControlPlane| server.command(&["ready", "--server", &url]);
        let absent = told(&self.server).err().context("a server that does not run is ready")?.to_string();
        ensure!(absent.contains("exit status: 4"), "{absent}");
        self.server.run().await?;
        self.server.ready().await?;
        told(&self.server)?;
        self.until_health_is("").await
    }

    /// A client from elsewhere that was answered, asks for nothing more, and keeps its connection.
    async fn idle_client(&self) -> anyhow::Result<TcpStream> {
        let mut client = TcpStream::connect(INBOUND).await?;
        client.write_all(b"GET / HTTP/1.1\r\nhost: till\r\n\r\n").await?;
        let read = tokio::time::timeout(LIMIT, client.read_exact(&mut [0; 12])).await;
        read.context("no answer")?.context("half an answer")?;
        Ok(client)
    }

    async fn alias(&self, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let hosts = self.server.items("namespaces/shop/hosts").await?;
        let host =
            hosts.iter().find(|host| host["name"] == name).with_context(|| format!("no host {name}"))?;
        Ok(format!("{}:{port}", host["address"].as_str().context("no address")?).parse()?)
    }

    fn ask_to_end(&self) -> anyhow::Result<()> {
        let id = self.helper.id().to_string();
        ensure!(Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &id]).status()?.success());
        Ok(())
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        let status = wait::until(LIMIT, "the end of the helper", async || self.helper.ended()).await?;
        ensure!(status.code() == Some(0), "Envoy and with it the helper ended with {status}");
        Ok(())
    }
}

fn is(answer: &Answer, text: &str) -> anyhow::Result<()> {
    ensure!(answer.status == 200 && answer.text() == text, "{}: {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn a_sidecar_is_ready_once_it_was_told_and_clients_leave_before_it_does() -> anyhow::Result<()> {
    play("sidecar", async |scene| {
        let mut task = Task::open(scene, "1h").await?;
        // Envoy is LIVE by now, and knows nothing.
        task.until_health_is("not ready: Envoy has no clusters from the control plane yet").await?;
        task.serve().await?;

        let (outbound, inbound) = (task.alias("payments", 8099).await?, INBOUND.parse()?);
        let slow = |to| tokio::spawn(async move { http::get(to, "/slow").await });
        let calls = [slow(outbound), slow(inbound)];
        let both = async {
            task.payments.asked.notified().await;
            task.till.asked.notified().await;
        };
        tokio::time::timeout(LIMIT, both).await.context("the slow requests did not arrive")?;
        task.ask_to_end()?;
        task.until_health_is("not ready: Envoy is DRAINING").await?;
        for to in [outbound, inbound].repeat(5) {
            let answer = http::get(to, "/").await?;
            is(&answer, "at once")?;
            ensure!(
                answer.header("connection") == Some("close"),
                "{to} keeps its clients: {:?}",
                answer.headers
            );
        }
        // Longer than it takes to see that nobody is connected.
        wait::throughout(Duration::from_secs(3), "Envoy to wait for two requests", async |_| {
            task.helper.still_runs()
        })
        .await?;
        task.payments.let_go.notify_one();
        task.till.let_go.notify_one();
        for call in calls {
            is(&call.await??, "at last")?;
        }
        task.ended().await?;
        task.server.stop().await
    })
}

#[test]
fn a_client_that_does_not_leave_is_waited_for_no_longer_than_said() -> anyhow::Result<()> {
    play("sidecar-bound", async |scene| {
        let mut task = Task::open(scene, "3s").await?;
        task.serve().await?;
        let _client = task.idle_client().await?;
        let asked = Instant::now();
        task.ask_to_end()?;
        task.ended().await?;
        let took = asked.elapsed();
        let bounds = Duration::from_secs(3)..Duration::from_secs(8);
        ensure!(bounds.contains(&took), "it took {took:?}");
        task.server.stop().await
    })
}

#[test]
fn a_client_of_an_application_that_has_ended_is_not_waited_for() -> anyhow::Result<()> {
    play("sidecar-late", async |scene| {
        let mut task = Task::open(scene, "1h").await?;
        task.serve().await?;
        let _client = task.idle_client().await?;
        // As ECS has it: what depends on Envoy ends before it.
        task.till.end.notify_one();
        task.ask_to_end()?;
        task.ended().await?;
        task.server.stop().await
    })
}

#[test]
fn a_drain_by_hand_leaves_envoy_running_and_the_calls_of_the_task_alone() -> anyhow::Result<()> {
    play("sidecar-drain", async |scene| {
        let mut task = Task::open(scene, "0s").await?;
        task.serve().await?;
        let outbound = task.alias("payments", 8099).await?;
        let call = tokio::spawn(async move { http::get(outbound, "/slow").await });
        tokio::time::timeout(LIMIT, task.payments.asked.notified()).await.context("no request")?;
        // One call is open, and nobody is connected from elsewhere.
        let admin = task.admin.to_string();
        let output = helper(&["drain", "--for", "1h", "--admin", &admin])?.output()?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(output.status.success() && told.starts_with("drained: "), "{}: {told}", output.status);
        ensure!(task.health()? == "not ready: Envoy is DRAINING", "{}", task.health()?);
        is(&http::get(outbound, "/").await?, "at once")?;
        is(&http::get(INBOUND.parse()?, "/").await?, "at once")?;
        task.payments.let_go.notify_one();
        is(&call.await??, "at last")?;
        task.helper.still_runs()?;
        task.ask_to_end()?;
        task.ended().await?;
        task.server.stop().await
    })
}

#[test]
fn a_new_service_is_reached_by_name_without_a_restart() -> anyhow::Result<()> {
    play("sidecar-hosts", async |scene| {
        let mut task = Task::open(scene, "0s").await?;
        let file = scene.folder().join("hosts");
        std::fs::write(&file, "127.0.0.1 localhost\n").context("writing a hosts file")?;
        let (admin, path) = (task.admin.to_string(), file.display().to_string());
        task.serve().await?;
        let mut command = helper(&["run", "--hosts", "--hosts-file", &path, "--admin", &admin, "--"])?;
        command.args(["sleep", "600"]);
        let mut application = Process::start("an application", command, &scene.folder().join("app.log"))?;
        let expected = async |task: &Task, names: &[(&str, u16)]| {
            let mut lines = String::new();
            for (name, port) in names {
                lines += &format!("{} {name} {name}.shop\n", task.alias(name, *port).await?.ip());
            }
            anyhow::Ok(lines)
        };
        let until_file_has = async |lines: String| {
            wait::until(LIMIT, format!("the names\n{lines}"), async || {
                let text = std::fs::read_to_string(&file)?;
                ensure!(text.starts_with("127.0.0.1 localhost\n"), "somebody's line is gone:\n{text}");
                let ours: Vec<_> = text.lines().skip(1).filter(|line| !line.starts_with('#')).collect();
                let wanted: Vec<_> = lines.lines().collect();
                ensure!(ours == wanted, "it has\n{text}");
                Ok(Some(()))
            })
            .await
        };
        until_file_has(expected(&task, &[("payments", 8099), ("till", 8098)]).await?).await?;
        let added = "  ledger:\n    aliases: [{ name: ledger, port: 8097 }]\n    endpoints: [{ address: 127.9.9.1, port: 8080 }]\n";
        task.services.write(&format!("{SERVICES}{added}"))?;
        let ledger =
            wait::until(LIMIT, "the alias ledger", async || task.alias("ledger", 8097).await.map(Some))
                .await?;
        let all = expected(&task, &[("ledger", 8097), ("payments", 8099), ("till", 8098)]).await?;
        until_file_has(all.clone()).await?;
        is(&http::get(ledger, "/").await?, "at once")?;
        // What short names mean where other namespaces are imported.
        let envoy = legation::sidecar::envoy::Envoy::at(task.admin, LIMIT);
        let own = tokio::task::spawn_blocking(move || envoy.namespace()).await??;
        ensure!(own == "shop", "Envoy says that it belongs to {own}");

        // Neither without the control plane nor without Envoy is anything forgotten.
        task.server.stop().await?;
        task.ask_to_end()?;
        task.ended().await?;
        wait::throughout(Duration::from_secs(3), "the names to stay", async |_| {
            until_file_has(all.clone()).await
        })
        .await?;
        let status = application.terminate(LIMIT).await?;
        ensure!(status.code() == Some(143), "`sleep` was ended by SIGTERM, and the helper by {status}");
        Ok(())
    })
}
