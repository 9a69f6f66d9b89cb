//! Which arm when.

/// The arms in the order in which round `round` (from 1) visits them.
///
/// A design of E. J. Williams ("Experimental designs balanced for the estimation of residual effects of
/// treatments", 1949): over as many rounds as there are arms each arm has each place once, so that a drift
/// within the rounds, warming up for one, favours nobody; and each follows each other equally often (where
/// the number of arms is odd that takes twice as many rounds), so that what one leaves behind, connections in
/// TIME_WAIT for one, meets all the others alike. So the base and its twin are neighbours no more often than
/// any other two.
pub fn order(round: u32, arms: usize) -> Vec<usize> {
    if arms == 0 {
        return Vec::new();
    }
    let round = round.saturating_sub(1) as usize;
    // 0, 1, n-1, 2, n-2, …: the steps between neighbours are all different.
    let zigzag = (0..arms).map(|place| match place % 2 {
        1 => place.div_ceil(2),
        _ => (arms - place / 2) % arms,
    });
    let mut order: Vec<usize> = zigzag.map(|arm| (arm + round) % arms).collect();
    // With an odd number each step comes twice this way, and its opposite never: go back the same way.
    if arms % 2 == 1 && (round / arms) % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_arm_has_each_place_and_follows_each_other_equally_often() {
        for arms in 1..=12 {
            let cycle = if arms % 2 == 0 { arms } else { 2 * arms };
            let (mut places, mut follows) = (HashMap::new(), HashMap::new());
            for round in 1..=cycle as u32 {
                let order = order(round, arms);
                for (place, arm) in order.iter().enumerate() {
                    *places.entry((*arm, place)).or_insert(0) += 1;
                }
                for pair in order.windows(2) {
                    *follows.entry((pair[0], pair[1])).or_insert(0) += 1;
                }
            }
            let each = cycle / arms;
            assert_eq!(places.len(), arms * arms, "{arms} arms");
            assert!(places.values().all(|n| *n == each), "{places:?}");
            assert_eq!(follows.len(), arms * (arms - 1), "{arms} arms");
            assert!(follows.values().all(|n| *n == each), "{follows:?}");
        }
    }

    #[test]
    fn no_arms_have_no_order_and_rounds_go_on_for_ever() {
        assert!(order(1, 0).is_empty());
        assert_eq!(order(1, 4), [0, 1, 3, 2]);
        assert_eq!(order(5, 4), order(1, 4));
        let mut last = order(u32::MAX, 5);
        last.sort_unstable();
        assert_eq!(last, [0, 1, 2, 3, 4]);
    }
}
