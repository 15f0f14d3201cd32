//! A Redis of one test, which the test can kill, start again, and give a wrong clock.
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::harness::{free_address, required_env};

pub struct RedisServer {
    child: Option<Child>,
    address: String,
    folder: PathBuf,
}

impl RedisServer {
    pub fn start() -> Self {
        let address = free_address();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(address.replace(':', "-"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut server = RedisServer {
            child: None,
            address,
            folder,
        };
        server.set_ahead(0);
        server.launch();
        server
    }

    pub fn launch(&mut self) {
        let (_, port) = self.address.rsplit_once(':').expect("a port");
        let child = Command::new(required_env("SECKILL_TEST_REDIS_SERVER"))
            .args([
                "--port",
                port,
                "--bind",
                "127.0.0.1",
                "--maxmemory-policy",
                "noeviction",
            ])
            .args(["--appendonly", "no", "--save", "", "--dir"])
            .arg(&self.folder)
            .env("LD_PRELOAD", clock_library())
            .env("SECKILL_CLOCK", self.folder.join("clock"))
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        self.child = Some(child);
    }

    /// Without a trace: its data is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Sets its wall clock so many milliseconds ahead; negative: behind.
    pub fn set_ahead(&self, ms: i64) {
        use std::os::unix::fs::FileExt as _;
        // Written in place: the server has mapped the file.
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join("clock"))
            .expect("a file");
        file.write_all_at(&ms.to_ne_bytes(), 0).expect("written");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The library that gives a process its own clock, as in a chaos run.
fn clock_library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("clock-{}.so", std::process::id()));
        let built = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../verify/chaos/clock.c"))
            .status()
            .expect("a C compiler");
        assert!(built.success());
        library
    })
}
