//! Explores the model. Each test says how much it saw.
mod configurations;
mod mutants;
mod walks;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};
use seckill_model::{Configuration, Protocol, Workers};
use stateright::{Checker, CheckerBuilder, Expectation, HasDiscoveries, Model};

fn main() {
    let arguments = Arguments::from_args();
    let trials = [configurations::trials(), mutants::trials(), walks::trials()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}

/// Every reachable state, and no property is broken; what should happen at some time does.
fn holds<M: World>(name: &str, model: M) -> Result<(), Failed> {
    let sizes = model.sizes();
    let checker = model.checker();
    let (checker, seconds) = explored(checker.finish_when(HasDiscoveries::AnyFailures));
    println!(
        "{name}: {sizes}: {} states, depth {}, {seconds:.1} s",
        with_commas(checker.unique_state_count()),
        checker.max_depth(),
    );
    let found = checker.discoveries();
    for property in checker.model().properties() {
        let path = found.get(property.name);
        match (property.expectation, path) {
            (Expectation::Sometimes, None) => return Err(format!("never: {}", property.name).into()),
            (Expectation::Always, Some(path)) => {
                let trace: Vec<String> = path.clone().into_actions().iter().map(|a| format!("{a:?}")).collect();
                return Err(format!("broken: {}\n    {}", property.name, trace.join("\n    ")).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// What both models are.
trait World:
    Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq> + Send + Sync + 'static
{
    fn sizes(&self) -> String;
}

impl World for Protocol {
    fn sizes(&self) -> String {
        self.rules.to_string()
    }
}

impl World for Workers {
    fn sizes(&self) -> String {
        let Configuration { log, mysql_losses, .. } = self.rules;
        format!("2 workers, 1 reader, {log} records, MySQL lost {mysql_losses} times")
    }
}

/// In one thread: everybody sees the same.
fn explored<M: World>(checker: CheckerBuilder<M>) -> (impl Checker<M>, f64) {
    let began = Instant::now();
    let checker = checker.spawn_bfs().join();
    (checker, began.elapsed().as_secs_f64())
}

fn with_commas(number: usize) -> String {
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

fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    // The larger ones are not for every day.
    let name = name.into();
    let extended = name.starts_with("extended_");
    Trial::test(name, test).with_ignored_flag(extended)
}
