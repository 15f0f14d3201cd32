//! The lock of the environment: one command at a time may change it.
use std::fs::{self, File, TryLockError};

use anyhow::{Result, bail};

use crate::cache;

/// Takes the lock. It is released when the file is dropped, or when the process ends.
pub fn take() -> Result<File> {
    let folder = cache::folder()?;
    fs::create_dir_all(&folder)?;
    let file = File::create(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `cargo xtask` is using {}; wait until it ends",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
