//! The worker with the fewest open connections.

use super::Candidate;

/// The ready worker with the smallest load; ties rotate.
///
/// Always taking the first among equals would send every connection of a quiet site to one worker.
/// So the search begins behind the seat that was picked last, and the first minimum from there wins.
#[derive(Debug, Clone, Default)]
pub struct LeastLoaded {
    pub(super) next: u16,
}

impl LeastLoaded {
    /// The index of the ready candidate with the smallest load. `candidates` are in ascending order
    /// of seat.
    pub fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        self.pick_by(candidates, |_, c| c.load)
    }

    /// The same, where the load of a candidate is what `load` says of it and its index.
    #[inline]
    pub fn pick_by(
        &mut self,
        candidates: &[Candidate],
        load: impl Fn(usize, &Candidate) -> u32,
    ) -> Option<usize> {
        let turn = candidates.partition_point(|c| c.seat < self.next);
        let (before, after) = candidates.split_at(turn);
        let least = |base: usize, part: &[Candidate]| {
            part.iter()
                .enumerate()
                .filter(|(_, c)| c.ready)
                // Of equals, `min_by_key` keeps the first.
                .min_by_key(|(i, c)| load(base + i, c))
                .map(|(i, c)| (load(base + i, c), base + i))
        };
        let picked = match (least(turn, after), least(0, before)) {
            (Some((a, i)), Some((b, j))) => Some(if b < a { j } else { i }),
            (a, b) => a.or(b).map(|(_, i)| i),
        }?;
        self.next = candidates[picked].seat.wrapping_add(1);
        Some(picked)
    }
}
