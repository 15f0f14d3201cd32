//! The limit of open files. Each connection needs one, and many container runtimes start processes with a soft limit of
//! 1,024, for the sake of programs that use `select`. None of ours does.
use rlimit::Resource;

/// Raises the soft limit to the hard limit. Call it at the start.
pub fn raise_limit() {
    match Resource::NOFILE.get() {
        Ok((soft, hard)) if soft < hard => match Resource::NOFILE.set(hard, hard) {
            Ok(()) => tracing::info!(soft_limit_before = soft, limit = hard, "raised the limit of open files"),
            Err(error) => tracing::warn!(%error, soft_limit = soft, hard_limit = hard,
                "failed to raise the limit of open files"),
        },
        Ok((soft, hard)) => tracing::info!(soft_limit = soft, hard_limit = hard, "limit of open files"),
        Err(error) => tracing::warn!(%error, "failed to read the limit of open files"),
    }
}

/// The limit in force. `u64::MAX` if it is unlimited or unknown.
pub fn limit() -> u64 {
    Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
}
