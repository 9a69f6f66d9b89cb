//! Each ready worker in turn.

use super::Candidate;

/// Exact round robin: after k·n picks among n ready workers, every one has k.
///
/// Remembers the seat that was served last, not an index, so that it goes on where it was when
/// workers come and go. A worker that is not ready loses its turn; nobody else gets two in a row
/// for it while another is ready.
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    /// The first seat that has its turn now; every seat before it has just had one.
    pub(super) next: u16,
}

impl RoundRobin {
    /// The index of the next ready candidate at or after the turn, going round. `candidates` are in
    /// ascending order of seat.
    pub fn pick(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let turn = candidates.partition_point(|c| c.seat < self.next);
        let ready = |i: &usize| candidates[*i].ready;
        let picked = (turn..candidates.len())
            .find(ready)
            .or_else(|| (0..turn).find(ready))?;
        self.next = candidates[picked].seat.wrapping_add(1);
        Some(picked)
    }
}
