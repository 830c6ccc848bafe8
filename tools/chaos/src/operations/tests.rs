//! The plan of the operators' calls: every kind is in it, and every gate is open before the end.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_seed_makes_the_same_calls_and_another_seed_others() {
    assert_eq!(calls(7, MINUTE), calls(7, MINUTE));
    assert_ne!(calls(7, MINUTE), calls(8, MINUTE));
}

#[test]
fn a_short_run_has_every_kind_of_call_and_a_snapshot_for_a_third_of_it() {
    for seed in 0..50 {
        let length = Duration::from_secs(20);
        let calls = calls(seed, length);
        let has = |is: fn(&Act) -> bool| calls.iter().any(|call| is(&call.act));
        for kind in [GateKind::Task, GateKind::Queue, GateKind::Tenant] {
            let of_kind = |act: &Act, rated: bool| match act {
                Act::SetLimit { gate, limit } => {
                    gate.kind == kind && (rated && limit.rate.is_some() || !rated && limit.max_running.is_some())
                }
                _ => false,
            };
            assert!(calls.iter().any(|call| of_kind(&call.act, true)), "{seed}: no rate of a {kind:?}");
            assert!(calls.iter().any(|call| of_kind(&call.act, false)), "{seed}: no limit of a {kind:?}");
            let pauses = |act: &Act| matches!(act, Act::Pause { gate, .. } if gate.kind == kind);
            assert!(calls.iter().any(|call| pauses(&call.act)), "{seed}: no pause of a {kind:?}");
        }
        assert!(has(|act| matches!(act, Act::Pause { gate, .. } if gate.kind == GateKind::All)), "{seed}");
        assert!(has(|act| matches!(act, Act::SetLimit { gate, .. } if gate.kind == GateKind::Host)), "{seed}");
        assert!(has(|act| *act == Act::SetFair { on: true }), "{seed}");
        assert!(has(|act| matches!(act, Act::Reschedule { .. })), "{seed}");
        assert!(has(|act| matches!(act, Act::Fail { .. })), "{seed}");
        assert!(has(|act| matches!(act, Act::Complete { .. })), "{seed}");
        assert!(has(|act| matches!(act, Act::Cancel { .. })), "{seed}");
        let held = calls.iter().find_map(|call| match call.act {
            Act::HoldSnapshot { lasts } => Some((call.at, lasts)),
            _ => None,
        });
        assert!(held.is_some_and(|(at, lasts)| lasts == length / 3 && at + lasts < length), "{seed}: {held:?}");
        assert!(calls.is_sorted_by_key(|call| call.at), "{seed}");
    }
}

#[test]
fn every_gate_is_open_before_the_end() {
    for seed in 0..200 {
        let mut closed: BTreeMap<(Gate, bool), Duration> = BTreeMap::new();
        for call in calls(seed, MINUTE) {
            assert!(call.at + OPEN_END <= MINUTE, "{seed}: {call}");
            match call.act {
                Act::SetLimit { gate, limit } if limit == Limit::default() => _ = closed.remove(&(gate, false)),
                Act::SetLimit { gate, .. } => _ = closed.insert((gate, false), Duration::MAX),
                Act::Pause { gate, lasts } => {
                    let until = lasts.map_or(Duration::MAX, |lasts| call.at + lasts);
                    closed.insert((gate, true), until);
                }
                Act::Resume { gate } => _ = closed.remove(&(gate, true)),
                _ => {}
            }
        }
        closed.retain(|_, until| *until > MINUTE - OPEN_END);
        let fair = calls(seed, MINUTE).into_iter().rfind(|call| matches!(call.act, Act::SetFair { .. }));
        assert!(fair.is_some_and(|call| call.act == Act::SetFair { on: false }), "{seed}");
        assert_eq!(closed, BTreeMap::new(), "{seed}");
    }
}
