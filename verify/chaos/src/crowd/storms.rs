//! Clients that send more than people do.
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};

use super::{Crowd, Habits};

/// How many clients buy and cancel at the same time.
const BUY_AND_CANCEL_CLIENTS: u64 = 20;

impl Crowd {
    /// Clients buy and cancel in a loop, each time under another key: the units come back, the orders stay.
    pub async fn buy_and_cancel(self: &Arc<Self>, sale: &str, time: Duration, seed: u64) {
        let until = Instant::now() + time;
        for client in 0..BUY_AND_CANCEL_CLIENTS {
            let (crowd, sale) = (self.clone(), sale.to_owned());
            let mut rng = StdRng::seed_from_u64(seed ^ client);
            tokio::spawn(async move {
                while Instant::now() < until && !*crowd.stopped.borrow() {
                    // Every buyer gets an answer, also one who comes shortly before the end.
                    let task = crowd.new_buyer(&sale, None, 1, Habits::PATIENT);
                    crowd.unless_stopped(task.run_at_once(&mut rng)).await;
                }
            });
        }
        sleep(time).await;
    }

    /// Whether a buyer of the main sale who comes now gets an answer within this time, on a new connection.
    pub async fn serves_newcomers(&self, api: usize, limit: Duration) -> bool {
        timeout(limit, async {
            while self.look(api).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .is_ok()
    }
}
