//! The model as Stateright explores it: which actions are possible in a state, and what each of them changes.
use seckill_protocol::Record;
use stateright::{Model, Property};

use crate::log::SALE;
use crate::properties;
use crate::protocol::{Action, Protocol};
use crate::state::{Coordinator, State};

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.violated.is_some() {
            return;
        }
        self.purchases(state, actions);
        self.changes(state, actions);
        self.recoveries(state, actions);
        self.ends(state, actions);
        self.faults(state, actions);
        self.times(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action)?;
        state.canonical();
        let checked = |violated: &&'static str| self.only.is_none_or(|only| only == *violated);
        state.violated = state.first_violation(&self.config).filter(checked);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.config)
    }
}

impl Protocol {
    /// Returns None if the action changes nothing.
    fn step(&self, state: &mut State, action: Action) -> Option<()> {
        use Action::*;
        match action {
            Buy { api, on, requests } => self.buy(state, api, on, &requests),
            Publish { api, batch } => self.publish(state, api, batch),
            ReadBack { api, batch } => self.read_back(state, api, batch),
            ApiCrashes { api } => self.api_crashes(state, api),
            ApiRefreshes { api } => self.api_refreshes(state, api),
            ApiLists => self.api_lists(state),
            ApiKeepsKeys => self.api_keeps_keys(state),
            Relay { on, entry } => self.relay(state, on, entry),
            Cancel(order) => self.cancel(state, order),
            Total(total) => self.append(state, Record::Total { sale: SALE, total }),
            Store => self.store(state),
            Adjust { on, adjustment } => self.adjust(state, on, adjustment),
            ForgetAdjustment { adjustment } => self.forget_adjustment(state, adjustment),
            WorkerCrashes => {
                state.worker_memory.clear();
                Some(())
            }
            Observe { coordinator } => self.observe(state, coordinator),
            RebuildNeedlessly { coordinator } => self.rebuild_needlessly(state, coordinator),
            Barrier { coordinator } => self.begin_epoch(state, coordinator),
            AdoptBarrier { coordinator } => self.adopt_barrier(state, coordinator),
            Fold { coordinator } => self.fold(state, coordinator),
            Write { coordinator, on } => self.write(state, coordinator, on),
            Install { coordinator, on } => self.install(state, coordinator, on, true),
            InstallUnanswered { coordinator, on } => self.install(state, coordinator, on, false),
            ReadTerms { coordinator } => self.read_terms(state, coordinator),
            Apply { coordinator } => self.apply(state, coordinator),
            PublishEpoch { coordinator } => self.publish_epoch(state, coordinator),
            CoordinatorDies { coordinator } => {
                state.coordinators[coordinator] = Coordinator::Idle;
                Some(())
            }
            ChangeFlashSale => {
                state.past.changes += 1;
                Some(())
            }
            UpdateTerms => self.update_terms(state),
            ApplyTerms => self.apply_terms(state),
            DecideClose => {
                state.past.closing = true;
                Some(())
            }
            Close => self.close(state),
            Settle => self.settle(state),
            RedisFlushed => self.redis_flushed(state),
            RedisRestarts { lags } => self.redis_restarts(state, lags),
            RedisFailsOver { lags } => self.redis_fails_over(state, lags),
            RedisReplicates => {
                state.redis_copy = Some(state.redis.data.clone());
                Some(())
            }
            FlipBack => self.flip_back(state),
            MySqlReplicates => {
                state.mysql_copy = state.mysql.clone();
                Some(())
            }
            MySqlFailsOver => self.mysql_fails_over(state),
            ClockAdvances => self.clock_advances(state),
        }
    }
}
