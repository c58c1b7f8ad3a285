//! Runs the real binary for the tests.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use shared::ambient::Stopwatch;

pub(crate) const KEY: &str = "a-key-for-tests-0123456789";
/// Long enough for a slow machine; nothing waits so long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A visitor's browser: its user agent says so, and it follows no redirect by itself.
pub(crate) fn browser() -> reqwest::ClientBuilder {
    // Another test in this process may have chosen it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().user_agent(BROWSER);
    builder.redirect(reqwest::redirect::Policy::none())
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUNTERSIGN_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The visitors' user agent.
pub(crate) const BROWSER: &str =
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// A running `up`; ended with -9 when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) data: PathBuf,
    pub(crate) edge: String,
    pub(crate) api: String,
    pub(crate) http: reqwest::Client,
}

impl Server {
    /// Starts with the demo, on free ports.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, None, &["--demo"])
    }

    /// Starts on the ports of an earlier server, or on free ones.
    pub(crate) fn start_with(data: &Path, before: Option<&Self>, flags: &[&str]) -> Self {
        let listen = |url: Option<&String>| {
            url.map_or("127.0.0.1:0", |url| url.trim_start_matches("http://")).to_owned()
        };
        let mut command = binary();
        command.args(["up", "--data"]).arg(data);
        command.args(["--edge-listen", &listen(before.map(|server| &server.edge))]);
        command.args(["--api-listen", &listen(before.map(|server| &server.api))]);
        command.args(flags).env("RUST_LOG", "warn");
        Self::run(data, command)
    }

    /// Starts with the demo, on free ports, and logs everything to a file.
    pub(crate) fn start_logging(data: &Path, config: &Path, log: &Path) -> Self {
        let mut command = binary();
        command.args(["up", "--demo", "--data"]).arg(data).arg("--config").arg(config);
        command.args(["--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
        command.env_remove("RUST_LOG").stderr(std::fs::File::create(log).unwrap());
        Self::run(data, command)
    }

    /// Starts a command that was made elsewhere.
    pub(crate) fn run(data: &Path, mut command: Command) -> Self {
        command.env("COUNTERSIGN_ADMIN_KEY", KEY);
        // Nobody here looks at an ad before clicking it.
        command.env("COUNTERSIGN_EDGE__VERDICTS__CLICK_TOO_SOON_MS", "0");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        let mut address = |name: &str| {
            let from = said.len();
            assert!(lines.read_line(&mut said).unwrap() > 0, "it ended: {:?}", child.try_wait());
            let line = said[from..].trim();
            let url = line
                .strip_prefix(&format!("{name} listening on "))
                .unwrap_or_else(|| panic!("{line}"));
            url.trim_start_matches("http://").parse::<SocketAddr>().unwrap();
            url.to_owned()
        };
        let (edge, api) = (address("edge"), address("api"));
        // The rest is for people, but must be read, or the process would block.
        while lines.read_line(&mut said).unwrap() > 0 && !said.contains("Ctrl-C") {}
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        let http = browser().build().unwrap();
        Self { child, data: data.to_owned(), edge, api, http }
    }

    /// kill -9, and a new start on the same ports and directory.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill_and_restart_with(&["--demo"]);
    }

    /// The same with other flags.
    pub(crate) fn kill_and_restart_with(&mut self, flags: &[&str]) {
        self.kill();
        let data = self.data.clone();
        let next = Self::start_with(&data, Some(self), flags);
        *self = next;
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns how the process ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(watch.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        resident_kib(self.id())
    }

    /// Asks the API, with the key; returns the JSON.
    pub(crate) async fn ask(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    /// Asks the API, with the key; returns the text.
    pub(crate) async fn text(&self, path: &str) -> String {
        let request = self.http.get(format!("{}{path}", self.api)).bearer_auth(KEY);
        let reply = request.send().await.unwrap();
        let (status, text) = (reply.status(), reply.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let watch = Stopwatch::start();
        loop {
            let answer = self.ask(path).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(watch.elapsed() < PATIENCE, "{path}: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An ad of the demo.
    pub(crate) async fn serve(&self) -> Value {
        let url = format!("{}/v1/serve?placement=demo-top", self.edge);
        let reply = self.http.get(url).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.json().await.unwrap()
    }

    /// `countersign import …` to this server.
    pub(crate) fn import(&self) -> Command {
        let mut command = binary();
        command.args(["import", "--api", &self.api, "--key", KEY]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A random moment before `most`, which a failed test prints.
pub(crate) fn random_moment(most: Duration) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap();
    let random = &mut shared::ambient::SystemRandom;
    let moment = Duration::from_millis(shared::random::below(random, most));
    eprintln!("the next kill -9 comes after {moment:?}");
    moment
}

/// Runs a command to its end, which must come soon; returns its exit code and output.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id().to_string();
    let (ended, waits) = std::sync::mpsc::channel::<()>();
    // A command that never ends is killed, so that its test fails instead of hanging.
    let guard = std::thread::spawn(move || {
        if waits.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
        }
    });
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            stream.unwrap().read_to_string(&mut text).unwrap();
            text
        })
    };
    let stdout = read(child.stdout.take().map(|stream| Box::new(stream) as _));
    let stderr = read(child.stderr.take().map(|stream| Box::new(stream) as _));
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let status = child.wait().unwrap();
    drop(ended);
    guard.join().unwrap();
    (status.code(), stdout, stderr)
}
