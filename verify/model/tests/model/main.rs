//! Explores the model: configurations that must hold, broken rules that must be found, and random walks.
mod clocks;
mod configurations;
mod explore;
mod formats;
mod mutants;
mod walks;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let trials = [
        configurations::trials(),
        mutants::trials(),
        walks::trials(),
        clocks::trials(),
        formats::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
