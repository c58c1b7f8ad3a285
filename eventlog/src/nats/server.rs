//! Starts a nats-server for one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A nats-server with JetStream and fsync on every write; it is killed with -9 when this is dropped.
/// Panics when the server cannot be started, for a test that needs one cannot pass without it.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    dir: PathBuf,
    port: u16,
    more: String,
    environment: Vec<(String, String)>,
}

fn binary() -> PathBuf {
    let named = std::env::var_os("COUNTERSIGN_NATS_SERVER").map(PathBuf::from);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
    let installed = || {
        let folders = std::fs::read_dir(tools).ok()?;
        let paths = folders.flatten().map(|folder| folder.path().join("bin/nats-server"));
        paths.filter(|path| path.exists()).max()
    };
    named.or_else(installed).expect("no nats-server: `cargo xtask test --only nextest` installs it")
}

impl NatsServer {
    /// Starts it on a free port, with its files in a directory.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, "", &[])
    }

    /// As [`NatsServer::start`], with more lines in its config, and environment variables for them.
    #[must_use]
    pub fn start_with(dir: &Path, more: &str, environment: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(dir).expect("the server's directory");
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(own).collect();
        let (dir, more) = (dir.to_owned(), more.to_owned());
        let child = spawn(&dir, -1, &more, &environment);
        let mut server = Self { child, dir, port: 0, more, environment };
        server.port = server.await_port();
        server
    }

    /// Starts a cluster of three nodes, for streams with copies.
    #[must_use]
    pub fn start_three(dir: &Path) -> [Self; 3] {
        let ports = free_ports();
        let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let node = |n: usize| {
            let more = format!(
                "server_name: node-{n}\ncluster {{ name: test, listen: \"127.0.0.1:{}\", \
                 routes: [{routes}] }}\n",
                ports[n]
            );
            Self::start_with(&dir.join(format!("node-{n}")), &more, &[])
        };
        [node(0), node(1), node(2)]
    }

    /// Path of the server's program.
    #[must_use]
    pub fn program() -> PathBuf {
        binary()
    }

    /// The address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it with -9.
    pub fn kill(&mut self) {
        // Fails when the server has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port and directory, after [`NatsServer::kill`].
    pub fn start_again(&mut self) {
        self.child = spawn(&self.dir, i32::from(self.port), &self.more, &self.environment);
        self.await_port();
    }

    /// Waits until the server is ready and has written its port into a file; gives the port.
    fn await_port(&self) -> u16 {
        let file = self.dir.join(format!("nats-server_{}.ports", self.child.id()));
        for _ in 0..1_000 {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let port = text.split_once("://127.0.0.1:").and_then(|(_, rest)| {
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
            });
            if let Some(port) = port {
                return port;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the nats-server in {} does not start", self.dir.display());
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three ports on which nobody listens at this moment. Nodes of a cluster must know each other's ports.
fn free_ports() -> [u16; 3] {
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listeners = [listen(), listen(), listen()];
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

fn spawn(dir: &Path, port: i32, more: &str, environment: &[(String, String)]) -> Child {
    let config = format!(
        "listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{0}\"\n\
         jetstream {{ store_dir: \"{0}\", sync_interval: always }}\n{more}",
        dir.display()
    );
    std::fs::write(dir.join("nats.conf"), config).expect("the server's config");
    let mut command = Command::new(binary());
    command.envs(environment.iter().cloned());
    command.arg("-c").arg(dir.join("nats.conf")).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("nats-server starts")
}
