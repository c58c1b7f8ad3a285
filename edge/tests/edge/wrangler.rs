//! The Worker under `wrangler dev`, as docs/worker.md describes it: with the shipped
//! `wrangler.toml`, settings in `.dev.vars`, and what must last in a folder.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::Reply;
use crate::shells::{Centre, at_once, get};
use crate::support::{CATALOGUE, ISSUER, World};

const SERVE: &str = "/v1/serve?placement=top";
/// How long it may take to start: it bundles the Worker, and starts workerd.
const START: Duration = Duration::from_secs(60);

/// A `wrangler dev`, ended with -9 when it is dropped: it and its workerd.
struct Wrangler {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Wrangler {
    /// In this folder, which is made a checkout's: configuration, settings, state.
    async fn start(folder: &Path, settings: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let shipped = std::fs::read_to_string(root.join("wrangler.toml")).unwrap();
        let (before, rest) = shipped.split_once("[build]").unwrap();
        let (_, after) = rest.split_once("\n\n").unwrap();
        let main = format!("main = \"{}/", root.display());
        let config = format!("{before}{after}").replace("main = \"", &main);
        std::fs::write(folder.join("wrangler.toml"), config).unwrap();
        std::fs::write(folder.join(".dev.vars"), settings).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = spawn(&root, folder, free.port());
        let mut wrangler = Self { child, folder: folder.to_owned(), address: free };
        wrangler.until_it_listens().await;
        wrangler
    }

    /// kill -9 of everything that it started, then the same again on the same state.
    async fn die_and_start_again(&mut self) {
        self.kill();
        // The signals have been sent; the last process may not have ended yet.
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        self.child = spawn(&root, &self.folder, self.address.port());
        self.until_it_listens().await;
    }

    /// Waits until it answers. What listens may be a process that is about to end, or wrangler
    /// without a Worker.
    async fn is_alive(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address).await else { return false };
        let head = b"GET /healthz HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(head).await;
        Reply::read_any(&mut stream).await.is_some_and(|reply| reply.status == 200)
    }

    async fn until_it_listens(&mut self) {
        for _ in 0..START.as_millis() / 100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            if self.is_alive().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let said = std::fs::read_to_string(self.folder.join("said")).unwrap_or_default();
        panic!("wrangler does not listen: {said}");
    }

    fn kill(&mut self) {
        let mut pids = vec![self.child.id()];
        let mut at = 0;
        while at < pids.len() {
            pids.extend(children(pids[at]));
            at += 1;
        }
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        // Some may have ended with the first.
        let _ = Command::new("kill").arg("-9").args(pids).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }

    /// Ads for sixteen who ask at the same time, and the clicks of all of them at once.
    async fn serve_and_click(&self) {
        let served = at_once(self.address, std::iter::repeat_n(SERVE.to_owned(), 16)).await;
        let link = |reply: &Reply| {
            assert_eq!(reply.status, 200, "{reply:?}");
            let link = reply.json()["click_url"].as_str().unwrap().to_owned();
            link[link.find("/v1/c/").unwrap()..].to_owned()
        };
        let clicked = at_once(self.address, served.iter().map(link)).await;
        assert!(clicked.iter().all(|reply| reply.status == 302), "{clicked:?}");
    }
}

impl Drop for Wrangler {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Linux tells the children of a process. Elsewhere only the first process is ended, and its
/// workerd ends with it.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The Node that `cargo xtask worker` took from npm, or else the machine's.
fn installed(root: &Path) -> PathBuf {
    let inside = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_node = |path: &PathBuf| path.to_string_lossy().contains(".tools/node-");
    let folders = inside(root.join(".tools")).map(|entry| entry.path()).filter(is_node);
    let packages = folders.flat_map(|folder| inside(folder.join("node_modules")));
    let mut programs = packages.map(|package| package.path().join("bin/node"));
    programs.find(|path| path.exists()).unwrap_or_else(|| "node".into())
}

fn spawn(root: &Path, folder: &Path, port: u16) -> Child {
    let node = std::env::var_os("COUNTERSIGN_NODE").map_or_else(|| installed(root), PathBuf::from);
    let script = root.join("node_modules/wrangler/bin/wrangler.js");
    assert!(script.exists(), "no wrangler: `cargo xtask worker` installs it");
    let mut said = std::fs::File::options();
    let mut said = said.append(true).create(true).open(folder.join("said")).unwrap();
    writeln!(said, "starting").unwrap();
    let mut command = Command::new(node);
    command.current_dir(folder).arg(script).args(["dev", "--ip", "127.0.0.1", "--port"]);
    command.arg(port.to_string()).args(["--inspector-port", "0"]);
    command.args(["--show-interactive-dev-session", "false"]);
    command.arg("--persist-to").arg(folder.join("state"));
    command.envs([
        ("CI", "1"),
        ("WRANGLER_SEND_METRICS", "false"),
        ("CLOUDFLARE_CF_FETCH_ENABLED", "false"),
    ]);
    command.env("XDG_CONFIG_HOME", folder.join("config"));
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
    command.spawn().expect("Node can be started: COUNTERSIGN_NODE, 22.12 or newer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_wrangler_dev_what_was_answered_is_counted_through_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::at(shared::Clock::now(&shared::ambient::SystemClock));
    let (centre, url) = Centre::start().await;
    let keys = world.store.for_edge(ISSUER).unwrap();
    centre.publish(keys.public.clone(), CATALOGUE);
    let keys = serde_json::to_string(&keys).unwrap();
    let settings = format!("EDGE_KEYS='{keys}'\nGATEWAY_URL={url}\n");
    let mut wrangler = Wrangler::start(dir.path(), &settings).await;
    // Cold, and all at once.
    wrangler.serve_and_click().await;
    let ready = get(wrangler.address, "/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    // What is answered while the centre is away is kept where `--persist-to` says.
    centre.status.store(503, std::sync::atomic::Ordering::SeqCst);
    wrangler.serve_and_click().await;
    wrangler.die_and_start_again().await;
    centre.status.store(202, std::sync::atomic::Ordering::SeqCst);
    wrangler.serve_and_click().await;
    let told = Arc::clone(&centre);
    let events = || told.told().events.values().sum::<u32>();
    for _ in 0..600 {
        if events() >= 96 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Sixteen served and sixteen clicked, three times; each once.
    assert_eq!(events(), 96);
}
