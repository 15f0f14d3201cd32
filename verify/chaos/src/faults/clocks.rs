//! The clock of one program or server is an hour off, through the beginning and the end of a sale. Two of three clocks are
//! right: those of operator, Redis and MySQL.
use std::time::Duration;

use anyhow::Result;

use crate::check::RECOVERY_TIMEOUT;
use crate::context::{FaultSale, RunContext};
use crate::evidence::ClockStep;
use crate::flash_sales::Times;
use crate::harness::Target;

const HOUR_MS: i64 = 3_600_000;
/// Time for the programs to read the wrong clock, and for the right one at the end.
const SETTING_TIME: Duration = Duration::from_secs(1);

pub async fn ahead(run: &mut RunContext, target: Target) -> Result<String> {
    wrong(run, target, HOUR_MS).await
}

pub async fn behind(run: &mut RunContext, target: Target) -> Result<String> {
    wrong(run, target, -HOUR_MS).await
}

async fn wrong(run: &mut RunContext, target: Target, ms: i64) -> Result<String> {
    let from = run.history.now();
    run.harness.set_clock_offset(target, ms)?;
    run.harness.run_for(SETTING_TIME).await?;
    let times = Times {
        starts_in: Duration::from_secs(7),
        lasts: Duration::from_secs(6),
    };
    let sale = FaultSale {
        times,
        ..FaultSale::lasting(6)
    };
    let name = run.create_sale("clock", &sale).await?;
    run.sales.wait_until_accepted(&name).await?;
    run.start_buyers(&name, &sale);
    let settled = run
        .settles_within(&name, times.starts_in + times.lasts + RECOVERY_TIMEOUT)
        .await?;
    run.harness.set_clock_offset(target, 0)?;
    run.harness.run_for(SETTING_TIME).await?;

    let what = format!("the clock of {target:?} was {} s off", ms / 1000);
    if !settled {
        run.unrecovered.push(format!("{name} did not settle while {what}"));
    }
    match target {
        Target::Redis => run.clock_steps.push(ClockStep {
            from,
            to: run.history.now(),
            offset_ms: ms.unsigned_abs(),
            preheated: Some(name.clone()),
        }),
        // Redis decides who may buy, and its clock was right.
        _ if run.history.winners_since(&name, from, 1).is_empty() => {
            run.unrecovered
                .push(format!("nobody could buy from {name} while {what}"));
        }
        _ => {}
    }
    Ok(format!("{what} from before the start of {name} until after its end"))
}
