//! One operator for each folder.
use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context as _, bail};

/// File systems whose locks other hosts do not see, or that lose them.
const NETWORK_FILE_SYSTEMS: [&str; 14] = [
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
];

/// Held until it is dropped, also if the process is killed.
pub struct Lock(#[expect(dead_code, reason = "the lock ends with the file")] File);

impl Lock {
    pub fn acquire(state: &Path) -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if let Some(kind) = file_system(&mounts, state).filter(|kind| NETWORK_FILE_SYSTEMS.contains(kind)) {
            bail!(
                "{} is on a network file system ({kind}), where a second operator would not be noticed: use a folder on a local \
                 disk",
                state.display()
            );
        }
        let path = state.join("lock");
        let file = File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => bail!("another operator runs this folder: it holds {}", path.display()),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("failed to lock {}", path.display())),
        }
    }
}

/// The type of the file system that has this path, by the text of /proc/self/mountinfo: that of the longest mount point, and
/// of several at one point the last.
fn file_system<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        path.starts_with(point).then_some(())?;
        Some((point.len(), after.split(' ').next()?))
    };
    let found = mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length);
    found.map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:40 / /mnt/share rw,relatime shared:20 - nfs4 host:/export rw
41 22 0:41 / /mnt/share/local rw,relatime - tmpfs tmpfs rw
";

    #[test]
    fn the_file_system_is_that_of_the_longest_mount_point() {
        let of = |path: &str| file_system(MOUNTS, Path::new(path));
        assert_eq!(of("/home/sales"), Some("ext4"));
        assert_eq!(of("/mnt/share/sales"), Some("nfs4"));
        assert_eq!(of("/mnt/shared"), Some("ext4"));
        assert_eq!(of("/mnt/share/local/sales"), Some("tmpfs"));
        assert_eq!(file_system("", Path::new("/")), None);
    }
}
