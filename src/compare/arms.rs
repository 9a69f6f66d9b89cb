//! Making arms.

use super::Arm;
use crate::dispatch::mode;

impl Arm {
    /// A way of ours to dispatch.
    pub fn ours(way: mode::Arm) -> Self {
        Self {
            name: way.to_string(),
            twin_of: None,
            configuration: Some(way.configuration()),
        }
    }

    /// This one, which must be the base, once more: what the two differ by is noise.
    pub fn twin(&self) -> Self {
        Self {
            name: format!("{}, again", self.name),
            twin_of: Some(0),
            configuration: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_says_how_to_choose_it_and_its_twin_whose_it_is() {
        let base = Arm::ours(mode::Arm::ALL[1]);
        let lines = base.configuration.as_deref();
        assert_eq!(
            (base.name.as_str(), lines),
            (
                "handoff/least-loaded",
                Some("mode = \"handoff\"\npolicy = \"least-loaded\"\n")
            )
        );
        let twin = base.twin();
        assert_eq!(twin.name, "handoff/least-loaded, again");
        assert_eq!((twin.twin_of, twin.configuration), (Some(0), None));
    }
}
