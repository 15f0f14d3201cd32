//! The readiness of a process: its gates, and the reason of each closed one.
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The gates of a process. The process is ready when all gates are. Create all gates before [`crate::admin::serve`]: a
/// probe could miss a later one.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Vec<GateState>>>);

struct GateState {
    name: &'static str,
    latched: bool,
    /// The reason why it is not ready; `None` when it is.
    reason: Option<String>,
}

impl Health {
    pub fn new() -> Self {
        Self::default()
    }

    /// A gate that opens and closes, for a dependency that every request needs.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.add(name, false)
    }

    /// A gate that stays open after it was opened, for a dependency that is needed to start. If it is lost later,
    /// errors are better than taking every pod out of the Service at once.
    pub fn latched_gate(&self, name: &'static str) -> Gate {
        self.add(name, true)
    }

    fn add(&self, name: &'static str, latched: bool) -> Gate {
        let mut gates = self.gates();
        gates.push(GateState {
            name,
            latched,
            reason: Some("starting".to_owned()),
        });
        Gate {
            health: self.clone(),
            index: gates.len() - 1,
        }
    }

    /// `Err` holds one line per closed gate: its name and the reason.
    pub fn check(&self) -> Result<(), NotReady> {
        let gates = self.gates();
        if gates.is_empty() {
            return Err(NotReady("starting".to_owned()));
        }
        let reasons: Vec<String> = gates
            .iter()
            .filter_map(|gate| gate.reason.as_ref().map(|why| format!("{}: {why}", gate.name)))
            .collect();
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(NotReady(reasons.join("\n")))
        }
    }

    fn gates(&self) -> MutexGuard<'_, Vec<GateState>> {
        // No code under the lock can panic, and a half-written reason would be harmless.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// One dependency of the process. It is not ready until [`Gate::ready`].
#[derive(Clone)]
pub struct Gate {
    health: Health,
    index: usize,
}

impl Gate {
    pub fn ready(&self) {
        self.health.gates()[self.index].reason = None;
    }

    /// Has no effect on a latched gate that was ready.
    pub fn not_ready(&self, why: impl Into<String>) {
        let gate = &mut self.health.gates()[self.index];
        if !(gate.latched && gate.reason.is_none()) {
            gate.reason = Some(why.into());
        }
    }

    pub fn is_ready(&self) -> bool {
        self.health.gates()[self.index].reason.is_none()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("name", &self.health.gates()[self.index].name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_gates_is_not_ready() {
        assert_eq!(Health::new().check(), Err(NotReady("starting".to_owned())));
    }

    #[test]
    fn ready_when_all_gates_are_ready() {
        let health = Health::new();
        let (redis, mysql) = (health.gate("redis"), health.gate("mysql"));
        redis.ready();
        assert_eq!(health.check(), Err(NotReady("mysql: starting".to_owned())));
        mysql.ready();
        assert_eq!(health.check(), Ok(()));
    }

    #[test]
    fn each_closed_gate_has_its_own_line() {
        let health = Health::new();
        let (redis, mysql) = (health.gate("redis"), health.gate("mysql"));
        redis.not_ready("connection refused");
        mysql.not_ready("waiting for migration 2");
        assert_eq!(
            health.check(),
            Err(NotReady(
                "redis: connection refused\nmysql: waiting for migration 2".to_owned()
            ))
        );
    }

    #[test]
    fn only_a_gate_that_is_not_latched_closes_again() {
        let health = Health::new();
        let (plain, latched) = (health.gate("plain"), health.latched_gate("latched"));
        latched.not_ready("not yet");
        assert!(!latched.is_ready());
        plain.ready();
        latched.ready();
        plain.not_ready("gone");
        latched.not_ready("gone");
        assert_eq!(health.check(), Err(NotReady("plain: gone".to_owned())));
    }
}
