//! Tests of the poller: when claims begin, and from where.

use std::sync::Arc;

use super::*;

fn poller(poll_interval: Duration) -> Poller {
    Poller::new(TaskFilter { only: None, except: Arc::default() }, poll_interval, Instant::now())
}

#[test]
fn claims_are_put_off_in_a_stream_of_jobs_and_not_for_a_job_or_two() {
    let start = Instant::now() + Duration::from_secs(3600);
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut poller = poller(Duration::from_secs(5));
    let mut next_after = |began| {
        poller.pace(began, &[], false);
        poller.wake(false);
        poller.next_at
    };
    assert!(next_after(at(0)) < start, "a lone job");
    assert!(next_after(at(20)) < start, "another one later");
    assert_eq!(next_after(at(22)), at(22) + PACE, "a stream");
}

#[test]
fn a_lane_looks_again_soon_where_the_last_look_from_the_start_has_put_jobs_in_their_place() {
    let mut poller = poller(Duration::from_secs(60));
    let mut next_after = |placed| {
        poller.scanned(Duration::from_secs(1), placed);
        let began = Instant::now();
        poller.next_at = began;
        poller.pace(began, &[], true);
        poller.next_at - began
    };
    assert!(next_after(false) > Duration::from_secs(15), "whatever comes is told");
    assert!(next_after(true) < Duration::from_millis(100));
}

#[test]
fn pauses_grow_from_poll_to_poll_until_a_job_comes() {
    let longest = Duration::from_millis(100);
    let mut poller = poller(longest);
    let pauses = |poller: &mut Poller| {
        [(); 4].map(|()| {
            let now = Instant::now();
            poller.found_nothing(now, None, false);
            (poller.next_at - now).as_millis()
        })
    };
    assert_eq!(pauses(&mut poller), [20, 40, 80, 100]);
    assert_eq!(pauses(&mut poller), [100; 4]);
    assert!(!poller.found(&[], 0));
    assert_eq!(pauses(&mut poller), [20, 40, 80, 100]);
    // A claim that takes long is not repeated at once.
    assert!(!poller.found(&[], 0));
    poller.scanned(Duration::from_millis(3), false);
    assert_eq!(pauses(&mut poller), [60, 60, 80, 100]);
}

#[test]
fn an_overdue_claim_from_the_start_is_passed_over_once() {
    let mut poller = poller(Duration::from_secs(5));
    let claim = |poller: &mut Poller, ahead| {
        poller.begun(9, ahead, Instant::now());
        poller.end(9);
    };
    // Not overdue for 5 s: however many wake-ups come, claims go ahead.
    poller.scanned(Duration::from_secs(60), false);
    for _ in 0..3 {
        poller.wake(false);
        assert!(poller.goes_ahead());
        claim(&mut poller, true);
    }
    // Overdue at once.
    poller.scanned(Duration::ZERO, false);
    poller.wake(false);
    assert!(poller.goes_ahead());
    claim(&mut poller, true);
    poller.wake(false);
    assert!(!poller.goes_ahead(), "its turn has come");
    claim(&mut poller, false);
    poller.scanned(Duration::ZERO, false);
    poller.wake(false);
    assert!(poller.goes_ahead());
}

#[test]
fn a_woken_lane_claims_again_at_once_and_a_sleeping_one_when_its_next_job_is_due() {
    let mut poller = poller(Duration::from_secs(5));
    let now = Instant::now();
    assert!(poller.may_claim(0, now));
    assert_eq!(poller.begin(9, 0, now), Some(true), "the first claim is from the start");
    assert!(!poller.may_claim(0, now), "one at a time");
    assert_eq!(poller.poll_at(now), None);
    poller.end(9);
    poller.found_nothing(now, Some(Duration::from_secs(2)), true);
    assert!(!poller.is_awake());
    assert_eq!(poller.poll_at(now), Some(now + Duration::from_secs(2)));
    poller.wake(false);
    let later = Instant::now();
    assert!(poller.may_claim(0, later));
    assert_eq!(poller.begin(9, 0, later), Some(true), "there is no cursor to go on from");
    poller.wake(false);
    poller.end(9);
    poller.found_nothing(later, None, true);
    assert!(poller.may_claim(0, later), "it was woken meanwhile");
}

#[test]
fn a_failed_claim_keeps_the_pace_of_the_retries_however_often_the_lane_is_woken() {
    let mut poller = poller(Duration::from_secs(5));
    let now = Instant::now();
    let retry_at = now + Duration::from_millis(500);
    poller.begin(9, 0, now);
    poller.end(9);
    poller.failed(retry_at);
    poller.wake(true);
    assert!(!poller.may_claim(0, now) && poller.may_claim(0, retry_at));
    poller.wake(false);
    assert!(poller.may_claim(0, Instant::now()), "claims succeed again");
}

#[test]
fn many_freed_gates_are_worth_a_claim_beside_another_and_a_few_are_not() {
    let mut poller = poller(Duration::from_secs(5));
    let now = Instant::now();
    poller.scanned(Duration::from_secs(1), false);
    let now = now.max(Instant::now());
    poller.begun(500, false, now);
    assert!(!poller.may_claim(FREED_BESIDE - 1, now), "one at a time");
    assert!(poller.may_claim(FREED_BESIDE, now));
    assert_eq!(poller.begin(FREED_BESIDE - 1, 500, now), None, "there is no room for so many");
    assert_eq!(poller.begin(FREED_BESIDE, 500, now), Some(false), "from the freed gates");
    assert!(!poller.may_claim(500, now), "two at a time");
    // One from the start is overdue: it begins as soon as the other has ended, however many gates are freed.
    poller.end(FREED_BESIDE);
    poller.scanned(Duration::ZERO, false);
    let now = Instant::now();
    assert_eq!(poller.begin(500, 500, now), None);
    poller.end(500);
    assert_eq!(poller.begin(500, 500, now), Some(true));
}
