//! Faults of the two stores. (Processes crash where their steps are.)
use std::sync::Arc;

use crate::protocol::{Action, Protocol};
use crate::state::{RedisData, RedisServer, State};

impl Protocol {
    pub(crate) fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let holds_something = *state.redis.data != RedisData::default();
        if state.past.redis_losses < self.config.redis_losses && holds_something {
            actions.push(Action::RedisFlushed);
            let lagging = state.redis_copy.as_ref().is_some_and(|copy| *copy != state.redis.data);
            for lags in [false, true].into_iter().take(1 + usize::from(lagging)) {
                actions.push(Action::RedisRestarts { lags });
                if self.config.split_brain {
                    actions.push(Action::RedisFailsOver { lags });
                }
            }
        }
        if state.redis_copy.as_ref().is_some_and(|copy| *copy != state.redis.data) {
            actions.push(Action::RedisReplicates);
        }
        if state.old.is_some() && self.config.flip_back {
            actions.push(Action::FlipBack);
        }
        if self.config.mysql_losses > 0
            && state.mysql != state.mysql_copy
            && state.past.mysql_losses < self.config.mysql_losses
        {
            actions.push(Action::MySqlReplicates);
            actions.push(Action::MySqlFailsOver);
        }
    }

    /// The data is lost; the server and its replication id stay.
    pub(crate) fn redis_flushed(&self, state: &mut State) -> Option<()> {
        state.past.redis_losses += 1;
        state.redis.data = Arc::default();
        Some(())
    }

    /// A restarted server or a promoted replica: both have a new replication id.
    fn new_primary(&self, state: &mut State, lags: bool) -> RedisServer {
        state.past.redis_losses += 1;
        let data = match &state.redis_copy {
            Some(copy) if lags => copy.clone(),
            _ => state.redis.data.clone(),
        };
        if state.redis_copy.is_some() {
            state.redis_copy = Some(data.clone());
        }
        RedisServer::new(state.past.redis_losses, data)
    }

    pub(crate) fn redis_restarts(&self, state: &mut State, lags: bool) -> Option<()> {
        state.redis = self.new_primary(state, lags);
        Some(())
    }

    /// Fails over to a replica while the old primary goes on. (If the old primary dies, that is a restart.)
    pub(crate) fn redis_fails_over(&self, state: &mut State, lags: bool) -> Option<()> {
        let new = self.new_primary(state, lags);
        let old = std::mem::replace(&mut state.redis, new);
        state.old = Some(old);
        Some(())
    }

    pub(crate) fn flip_back(&self, state: &mut State) -> Option<()> {
        state.redis = state.old.take()?;
        Some(())
    }

    pub(crate) fn mysql_fails_over(&self, state: &mut State) -> Option<()> {
        state.past.mysql_losses += 1;
        state.mysql = state.mysql_copy.clone();
        Some(())
    }
}
