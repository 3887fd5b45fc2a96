use crate::network::*;
use kv_core::gossip::MemberState;
use kv_core::id::NodeId;
use std::time::Duration;
#[test]
fn measure() {
    let n = 50;
    let t = std::time::Instant::now();
    let mut net = Network::new(1);
    for i in 1..=n {
        net.start(i);
    }
    let took = net.run_until_all(Duration::from_secs(20), |n| n.are_all_alive());
    println!("all found after {took:?}, real {:?}", t.elapsed());
    net.run(Duration::from_secs(60));
    let b = net.sent_bytes.clone();
    let c = net.sent_count;
    let r = net.reports.len();
    net.run(Duration::from_secs(60));
    let max = net.sent_bytes.iter().map(|(i, v)| v - b[i]).max().unwrap();
    println!(
        "max bytes/s {} mean {} msgs/s/node {} reports {}",
        max / 60,
        net.sent_bytes.iter().map(|(i, v)| v - b[i]).sum::<u64>() / 60 / n,
        (net.sent_count - c) as f64 / 60.0 / n as f64,
        net.reports.len() - r
    );
    // gap distribution
    net.is_counting = false;
    let t = std::time::Instant::now();
    let begin = net.now;
    let secs = scale(3, 3600);
    let mut hist = [0u64; 60];
    let mut last = std::collections::BTreeMap::new();
    let mut phimax = 0.0f64;
    for _ in 0..secs * 20 {
        net.run(Duration::from_millis(50));
        if std::env::var("GAPS").is_ok() {
            for (id, g) in net.running() {
                for m in g.members(net.now) {
                    phimax = phimax.max(m.phi);
                    let e = last.entry((id, m.node)).or_insert(m.heard_at);
                    if *e != m.heard_at {
                        let gap = m.heard_at.saturating_since(*e).as_millis() as usize / 100;
                        hist[gap.min(59)] += 1;
                        *e = m.heard_at;
                    }
                }
            }
        }
    }
    println!(
        "{secs}s: accusations {} real {:?} phimax {phimax} hist {hist:?}",
        net.accusations(begin).len(),
        t.elapsed()
    );
    let loss = [100];
    for l in loss {
        let mut det = vec![];
        let mut joins = vec![];
        let mut firsts = vec![];
        let mut false_ = 0;
        for seed in 0..200 {
            let mut net = Network::settled(seed, 49);
            net.loss_per_mille = l;
            net.run(Duration::from_secs(30));
            let b0 = net.now - Duration::from_secs(30);
            false_ += net.accusations(b0).len();
            net.start(50);
            let j = net.run_until_all(Duration::from_secs(20), |n| {
                n.agreed(50) == Some(Some(MemberState::Alive))
                    && n.node(50).members(n.now).count() == 49
            });
            joins.push(j.unwrap());
            net.run(Duration::from_secs(20));
            let off = net.start_offset(seed);
            net.run(off);
            net.crash(17);
            let begin = net.now;
            let d = net.run_until_all(Duration::from_secs(20), |n| {
                n.running().all(|(_, g)| g.state(NodeId(17)) == Some(MemberState::Suspect))
            });
            firsts.push(
                net.accusations(begin)
                    .iter()
                    .find(|r| r.node == NodeId(17))
                    .unwrap()
                    .at
                    .saturating_since(begin),
            );
            det.push(d);
        }
        det.sort();
        joins.sort();
        firsts.sort();
        println!(
            "loss {l}: join max {:?} first {:?}..{:?} all med {:?} p90 {:?} top {:?} false {false_}",
            joins[199],
            firsts[0],
            firsts[199],
            det[100],
            det[180],
            &det[190..]
        );
    }
}
impl Network {
    fn start_offset(&self, s: u64) -> Duration {
        Duration::from_millis(s * 50)
    }
}
