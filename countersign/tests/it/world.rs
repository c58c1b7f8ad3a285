//! A deployment of the roles around a real nats-server.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use eventlog::nats::server::NatsServer;
use serde_json::Value;
use shared::ambient::Stopwatch;

use crate::process::{KEY, PATIENCE, binary, browser, run};

/// The edges of a deployment.
const EDGES: [&str; 10] =
    ["--edge", "a", "--edge", "b", "--edge", "edge", "--edge", "w", "--edge", "ghost"];

pub(crate) const CATALOGUE: &str = include_str!("../../src/up/demo/catalogue.toml");

/// A role that runs; ended with -9 when it is dropped.
pub(crate) struct Role {
    pub(crate) child: Child,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    /// The addresses that it printed, by name: `edge`, `api`.
    urls: Vec<(String, String)>,
}

impl Role {
    /// Starts on the addresses of an earlier process, or on free ports.
    pub(crate) fn start(args: Vec<String>, before: &[(String, String)]) -> Self {
        Self::start_in(Vec::new(), args, before)
    }

    /// The same with an environment of its own.
    pub(crate) fn start_in(
        environment: Vec<(String, String)>,
        args: Vec<String>,
        before: &[(String, String)],
    ) -> Self {
        let address = |name: &str| {
            let known = before.iter().find(|(known, _)| known == name);
            known.map_or("127.0.0.1:0", |(_, url)| url.trim_start_matches("http://")).to_owned()
        };
        let mut command = binary();
        command.args(&args).args(["--api-listen", &address("api")]);
        let listeners = if args[0] == "edge" {
            command.args(["--edge-listen", &address("edge")]);
            // Nobody here looks at an ad before clicking it.
            command.env("COUNTERSIGN_EDGE__VERDICTS__CLICK_TOO_SOON_MS", "0");
            2
        } else {
            1
        };
        command.env("COUNTERSIGN_ADMIN_KEY", KEY).env("RUST_LOG", "warn");
        if args[0] == "aggregator" {
            // Many small files.
            command.env("COUNTERSIGN_ARCHIVE__EVERY_MS", "70");
            command.env("COUNTERSIGN_ARCHIVE__FILE_BYTES", "20000");
        }
        command.envs(environment.clone());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let urls = (0..listeners).map(|_| {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it ended: {:?}", child.try_wait());
            let (name, url) = line.trim().split_once(" listening on ").expect("an address");
            (name.to_owned(), url.to_owned())
        });
        let urls = urls.collect();
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        Self { child, args, environment, urls }
    }

    pub(crate) fn url(&self, name: &str) -> &str {
        &self.urls.iter().find(|(known, _)| known == name).unwrap().1
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again on the same addresses, after it has ended.
    pub(crate) fn start_again(&mut self) {
        let (args, urls) = (std::mem::take(&mut self.args), std::mem::take(&mut self.urls));
        *self = Self::start_in(std::mem::take(&mut self.environment), args, &urls);
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Waits for its end, which must come soon; returns the exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(watch.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A deployment.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) nats: NatsServer,
    pub(crate) http: reqwest::Client,
}

impl World {
    pub(crate) fn new(dir: &Path) -> Self {
        let nats = NatsServer::start(&dir.join("nats"));
        let (code, said, err) =
            run(binary().args(["init", "--partitions", "4", "--log", &nats.url()]).args(EDGES));
        assert_eq!(code, Some(0), "{said}{err}");
        assert!(said.contains("4 partitions") && said.contains("cs_admin_"), "{said}");
        let http = browser().build().unwrap();
        Self { dir: dir.to_owned(), nats, http }
    }

    pub(crate) fn edge(&self, name: &str) -> Role {
        self.edge_at(name, &self.nats.url())
    }

    pub(crate) fn edge_at(&self, name: &str, url: &str) -> Role {
        self.edge_in(Vec::new(), name, url)
    }

    /// The same with an environment of its own.
    pub(crate) fn edge_in(
        &self,
        environment: Vec<(String, String)>,
        name: &str,
        url: &str,
    ) -> Role {
        let data = self.dir.join(name);
        std::fs::create_dir_all(&data).unwrap();
        let catalogue = CATALOGUE.replace("{site}", "http://127.0.0.1:9");
        std::fs::write(data.join("catalogue.toml"), catalogue).unwrap();
        let data = data.display().to_string();
        let args = ["edge", "--log", url, "--name", name, "--data", &data];
        Role::start_in(environment, args.map(str::to_owned).to_vec(), &[])
    }

    pub(crate) fn collector(&self) -> Role {
        let args = ["collector", "--log", &self.nats.url()];
        Role::start(args.map(str::to_owned).to_vec(), &[])
    }

    /// Starts an aggregator. Two of them count into the same directory, which one at a time has.
    pub(crate) fn aggregator(&self) -> Role {
        let data = self.dir.join("counts").display().to_string();
        let args = ["aggregator", "--log", &self.nats.url(), "--data", &data];
        Role::start(args.map(str::to_owned).to_vec(), &[])
    }

    pub(crate) async fn get(&self, url: &str) -> (u16, String) {
        match self.http.get(url).bearer_auth(KEY).send().await {
            Ok(reply) => (reply.status().as_u16(), reply.text().await.unwrap_or_default()),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Asks until the answer is 200 and as wanted.
    pub(crate) async fn until(&self, url: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let watch = Stopwatch::start();
        loop {
            let (status, text) = self.get(url).await;
            let answer: Value = serde_json::from_str(&text).unwrap_or_default();
            if status == 200 && wanted(&answer) {
                return answer;
            }
            assert!(watch.elapsed() < PATIENCE, "{url}: {status} {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn click(&self, edge: &Role) {
        let url = format!("{}/v1/serve?placement=demo-top", edge.url("edge"));
        let (status, text) = self.get(&url).await;
        assert_eq!(status, 200, "{text}");
        let ad: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(self.get(ad["click_url"].as_str().unwrap()).await.0, 302);
    }

    /// The URL of the account of the last and next minutes.
    pub(crate) fn live(&self, aggregator: &Role) -> String {
        use shared::Clock as _;
        let now = shared::ambient::SystemClock.now().minute().0;
        let (from, to) = ((now - 10) * 60, (now + 10) * 60);
        format!("{}/v1/accounting?from={from}&to={to}", aggregator.url("api"))
    }
}
