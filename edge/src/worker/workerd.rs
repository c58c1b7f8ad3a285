//! Runs the Worker on a workerd of its own, for a test.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/workerd.capnp");

/// A workerd that runs the edge; killed with -9 on drop. Panics when there is no workerd: a test
/// that needs one must not pass without it.
#[derive(Debug)]
pub struct Workerd {
    child: Child,
    config: PathBuf,
    dir: PathBuf,
    port: u16,
    bindings: Vec<(String, String)>,
}

fn binary() -> PathBuf {
    let named = std::env::var_os("COUNTERSIGN_WORKERD").map(PathBuf::from);
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node_modules/@cloudflare");
    let installed = || {
        let platforms = std::fs::read_dir(modules).ok()?.flatten();
        platforms.map(|at| at.path().join("bin/workerd")).find(|path| path.exists())
    };
    named.or_else(installed).expect("no workerd: `cargo xtask worker` installs it")
}

impl Workerd {
    /// Starts it on a free port, with its outbox in `dir`. Settings that are not among the bindings
    /// are not set.
    #[must_use]
    pub fn start(dir: &Path, bindings: &[(&str, &str)]) -> Self {
        Self::start_with(Path::new(CONFIG), dir, bindings)
    }

    fn start_with(config: &Path, dir: &Path, bindings: &[(&str, &str)]) -> Self {
        let built = Path::new(CONFIG).with_file_name("build");
        assert!(built.exists(), "no Worker in {}: `cargo xtask worker` builds it", built.display());
        std::fs::create_dir_all(dir).expect("the outbox's directory");
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        // Of two bindings with the same name the last one counts, as in an environment.
        let bindings: Vec<_> = bindings.iter().map(own).collect();
        let (child, port) = spawn(config, dir, 0, &bindings);
        Self { child, config: config.to_owned(), dir: dir.to_owned(), port, bindings }
    }

    /// Starts one that also trusts servers with this certificate (PEM).
    #[must_use]
    pub fn start_trusting(dir: &Path, certificate: &Path, bindings: &[(&str, &str)]) -> Self {
        let config = Self::changed(dir, |text| {
            let (all, more) =
                ("trustBrowserCas = true", "trustedCertificates = [embed \"ca.pem\"]");
            assert!(text.contains(all), "the config has no {all}");
            text.replace(all, &format!("{all}, {more}"))
        });
        std::fs::copy(certificate, config.with_file_name("ca.pem")).expect("the certificate");
        Self::start_with(&config, dir, bindings)
    }

    /// A changed configuration, in a folder of its own together with all files that it names.
    pub fn changed(dir: &Path, change: impl FnOnce(&str) -> String) -> PathBuf {
        let own = dir.join("config");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in ["src/worker/entry.js", "build/index.js", "build/index_bg.wasm"] {
            let to = own.join(file);
            std::fs::create_dir_all(to.parent().expect("it is in a folder")).expect("its folder");
            let copied = std::fs::copy(here.join(file), to);
            copied
                .unwrap_or_else(|error| panic!("{file}: {error}; `cargo xtask worker` builds it"));
        }
        let text = std::fs::read_to_string(CONFIG).expect("the config");
        let config = own.join("workerd.capnp");
        std::fs::write(&config, change(&text)).expect("the config");
        config
    }

    /// The path of the program.
    #[must_use]
    pub fn program() -> PathBuf {
        binary()
    }

    /// Its address for visitors.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again on the same port and directory, after [`Workerd::kill`].
    pub fn start_again(&mut self) {
        (self.child, self.port) = spawn(&self.config, &self.dir, self.port, &self.bindings);
    }

    /// Starts again with another configuration.
    pub fn start_again_as(&mut self, config: &Path) {
        config.clone_into(&mut self.config);
        self.start_again();
    }

    /// Starts again with another value of one binding.
    pub fn start_again_with(&mut self, name: &str, value: &str) {
        self.bindings.retain(|(known, _)| known != name);
        self.bindings.push((name.to_owned(), value.to_owned()));
        self.start_again();
    }
}

impl Drop for Workerd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(config: &Path, dir: &Path, port: u16, bindings: &[(String, String)]) -> (Child, u16) {
    let mut command = Command::new(binary());
    command.arg("serve").arg(config).arg("--control-fd=1");
    command.arg(format!("--socket-addr=http=127.0.0.1:{port}"));
    command.arg(format!("--directory-path=outbox={}", dir.display()));
    command.env_clear().envs(bindings.iter().cloned());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("workerd can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it was asked for"));
    let mut line = String::new();
    let port = loop {
        line.clear();
        let read = lines.read_line(&mut line).expect("workerd's lines are text");
        assert!(read > 0, "workerd has ended: {:?}", child.try_wait());
        let told: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let ("listen", Some(port)) =
            (told["event"].as_str().unwrap_or(""), told["port"].as_u64())
        {
            break u16::try_from(port).expect("a port");
        }
    };
    // Its output must be read, or it would block.
    std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    (child, port)
}
