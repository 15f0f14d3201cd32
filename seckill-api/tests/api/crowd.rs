use crate::shop::*;
use std::sync::Arc;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd() {
    let shop = Arc::new(Shop::new().await);
    let sale = Arc::new(shop.sell(10_000, open()).await);
    let places = Arc::new(tokio::sync::Semaphore::new(3000));
    let began = std::time::Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..20_000 {
        let (shop, sale, places) = (shop.clone(), sale.clone(), places.clone());
        tasks.push(tokio::spawn(async move {
            let _p = places.acquire().await;
            let t = std::time::Instant::now();
            let a = shop.buy(&sale, &key()).await;
            (a.status.as_u16(), a.code().to_owned(), t.elapsed())
        }));
    }
    let mut counts = std::collections::BTreeMap::new();
    let mut times = Vec::new();
    for t in tasks { let (s, c, d) = t.await.unwrap(); *counts.entry((s, c)).or_insert(0) += 1; times.push(d); }
    times.sort();
    panic!("{counts:?} in {:?}, p50 {:?} p99 {:?} max {:?}", began.elapsed(), times[10_000], times[19_800], times[19_999]);
}
