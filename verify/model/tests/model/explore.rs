//! Explores a model and prints how many states it has.
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use libtest_mimic::{Failed, Trial};
use seckill_model::{Configuration, Deletions, Identities, IdentityConfig, Protocol, Workers};
use stateright::{Checker, CheckerBuilder, Expectation, HasDiscoveries, Model};

/// Explores every reachable state. No property may be violated, and what must happen in some state must happen.
pub fn check_all_states<M: SizedModel>(name: &str, model: M) -> Result<(), Failed> {
    let size = model.size();
    let checker = model.checker();
    let (checker, seconds) = explore(checker.finish_when(HasDiscoveries::AnyFailures));
    println!(
        "{name}: {size}: {} states, depth {}, {seconds:.1} s",
        with_commas(checker.unique_state_count()),
        checker.max_depth(),
    );
    let found = checker.discoveries();
    for property in checker.model().properties() {
        let path = found.get(property.name);
        match (property.expectation, path) {
            (Expectation::Sometimes, None) => return Err(format!("never happened: {}", property.name).into()),
            (Expectation::Always, Some(path)) => {
                let trace: Vec<String> = path.clone().into_actions().iter().map(|a| format!("{a:?}")).collect();
                return Err(format!("violated: {}\n    {}", property.name, trace.join("\n    ")).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// A model that can print its size.
pub trait SizedModel:
    Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq> + Send + Sync + 'static
{
    fn size(&self) -> String;
}

impl SizedModel for Protocol {
    fn size(&self) -> String {
        self.config.to_string()
    }
}

impl SizedModel for Workers {
    fn size(&self) -> String {
        let Configuration { log, mysql_losses, .. } = self.config;
        format!("2 workers, 1 reader, {log} records, MySQL lost {mysql_losses} times")
    }
}

impl SizedModel for Deletions {
    fn size(&self) -> String {
        let Deletions {
            sales,
            deletions,
            creations,
            leader_changes,
            losses,
            ..
        } = self;
        format!(
            "2 clusters, {sales} sales, {deletions} deletions, {creations} creations, {leader_changes} changes of leader, \
             {losses} restores or lists"
        )
    }
}

impl SizedModel for Identities {
    fn size(&self) -> String {
        let IdentityConfig {
            operators, log, losses, ..
        } = self.config;
        format!("{operators} operators, {log} records, MySQL lost {losses} times")
    }
}

/// Explores in one thread, so that each run finds the same path.
pub fn explore<M: SizedModel>(checker: CheckerBuilder<M>) -> (impl Checker<M>, f64) {
    let started = Instant::now();
    let checker = checker.spawn_bfs().join();
    (checker, started.elapsed().as_secs_f64())
}

pub fn with_commas(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    // Larger configurations run only on request.
    let name = name.into();
    let extended = name.starts_with("extended_");
    Trial::test(name, test).with_ignored_flag(extended)
}
