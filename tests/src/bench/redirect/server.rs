//! A server under test: started on its core, asked for its address, killed in the end.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shared::ambient::Stopwatch;

use super::super::tokens::URL;
use super::{SERVER_CORE, on_core};

const PATIENCE: Duration = Duration::from_secs(10);

/// Killed with -9 when it is dropped.
pub(super) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// The edge, with its outbox in a directory.
    pub(super) fn edge(outbox: &Path) -> Result<Self, String> {
        let mut command = served("edge")?;
        command.arg(outbox);
        Self::ours(command)
    }

    /// A bare axum.
    pub(super) fn axum() -> Result<Self, String> {
        Self::ours(served("axum")?)
    }

    /// nginx; `None` when there is none on the PATH.
    pub(super) fn nginx(dir: &Path) -> Result<Option<Self>, String> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.map_err(|error| error.to_string())?;
        let config = dir.join("nginx.conf");
        std::fs::write(&config, nginx_config(address)).map_err(|error| error.to_string())?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(&config).args(["-e", "stderr"]);
        let child = match start(command) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| format!("nginx: {error}"))?,
        };
        let server = Self { child, address };
        let watch = Stopwatch::start();
        while TcpStream::connect(address).is_err() {
            if watch.elapsed() > PATIENCE {
                return Err(format!("nginx does not listen on {address}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(server))
    }

    /// A workerd, on a free port.
    pub(super) fn workerd(
        config: &Path,
        environment: &[(&str, String)],
        outbox: Option<&Path>,
    ) -> Result<Self, String> {
        let mut command = Command::new(edge::worker::workerd::Workerd::program());
        command.arg("serve").arg(config).args(["--control-fd=1", "--socket-addr=http=127.0.0.1:0"]);
        if let Some(outbox) = outbox {
            command.arg(format!("--directory-path=outbox={}", outbox.display()));
        }
        command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let child = start(command).map_err(|error| format!("workerd: {error}"))?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let output = server.child.stdout.take().ok_or("workerd says nothing")?;
        let port = BufReader::new(output).lines().map_while(Result::ok).find_map(|line| {
            let told: serde_json::Value = serde_json::from_str(&line).ok()?;
            u16::try_from(told["port"].as_u64()?).ok()
        });
        server.address.set_port(port.ok_or("workerd has ended")?);
        Ok(server)
    }

    fn ours(mut command: Command) -> Result<Self, String> {
        command.stdout(Stdio::piped());
        let mut child = start(command).map_err(|error| format!("served: {error}"))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
        }
        let address = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
        // Dropping the server ends a child that said something else.
        let mut server = Self { child, address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        server.address = address.ok_or_else(|| format!("a server under test said {line:?}"))?;
        Ok(server)
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it has used its core, in user and system mode; Linux counts it in hundredths of a
    /// second.
    pub(super) fn cpu_seconds(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        // Counted behind the program's name, which is in brackets (proc(5): fields 14 and 15).
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: Result<Vec<f64>, _> = ticks.map(str::parse).collect();
        let ticks = ticks.map_err(|error| format!("{path}: {error}"))?;
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(mut command: Command) -> std::io::Result<Child> {
    on_core(SERVER_CORE, || command.stdin(Stdio::null()).spawn())
}

/// The program `served`, which is beside this one.
fn served(what: &str) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(own.with_file_name("served"));
    command.arg(what).env("RUST_LOG", "warn");
    Ok(command)
}

/// One process that is not a daemon, so that it can be ended; nothing is logged.
fn nginx_config(address: SocketAddr) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 100000000;\n  keepalive_timeout 600;\n  \
         client_body_temp_path t1;\n  proxy_temp_path t2;\n  fastcgi_temp_path t3;\n  \
         uwsgi_temp_path t4;\n  scgi_temp_path t5;\n  \
         server {{ listen {address} backlog=4096; location / {{ return 302 {URL}; }} }}\n}}\n"
    )
}
