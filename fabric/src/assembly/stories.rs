//! How the last endpoint to each node came about, or why it did not, for people.

use std::collections::BTreeMap;

use gridnet_core::wire::NodeId;

/// Nodes of which it is remembered; beyond, any of them is forgotten.
const STORIES_MAX: usize = 1024;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Stories(BTreeMap<NodeId, Story>);

#[derive(Debug, Default)]
struct Story {
    last: Vec<String>,
    /// What the other side has asked for since this side has, by rail: it asks for others now and then, and stays where it is when
    /// they do not come up.
    asked: BTreeMap<&'static str, String>,
}

impl Stories {
    fn of(&mut self, node: NodeId) -> &mut Story {
        if self.0.len() >= STORIES_MAX && !self.0.contains_key(&node) {
            self.0.pop_first();
        }
        self.0.entry(node).or_default()
    }

    /// This side has asked, and it went so, a line each.
    pub(super) fn tell(&mut self, node: NodeId, story: Vec<String>) {
        *self.of(node) = Story { last: story, asked: BTreeMap::new() };
    }

    /// The other side has asked, for this rail.
    pub(super) fn asked(&mut self, node: NodeId, rail: &'static str, line: String) {
        let story = self.of(node);
        story.last = vec![line.clone()];
        story.asked.insert(rail, line);
    }

    /// What is known of a node that is reached by this rail.
    pub(super) fn get(&self, node: NodeId, rail: Option<&str>) -> Option<Vec<String>> {
        let story = self.0.get(&node)?;
        let asked = rail.and_then(|rail| story.asked.get(rail));
        Some(asked.map_or_else(|| story.last.clone(), |line| vec![line.clone()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_not_what_stands() {
        let (mut stories, node) = (Stories::default(), NodeId::new([1; 16]).unwrap());
        let mut asked = |rail: &'static str| stories.asked(node, rail, format!("asked for {rail}"));
        asked("relay");
        asked("tcp");
        assert_eq!(stories.get(node, Some("relay")), Some(vec!["asked for relay".to_owned()]));
        assert_eq!(stories.get(node, Some("shm")), Some(vec!["asked for tcp".to_owned()]));
        assert_eq!(stories.get(node, None), Some(vec!["asked for tcp".to_owned()]), "the last one");
        stories.tell(node, vec!["agreed".to_owned()]);
        assert_eq!(stories.get(node, Some("relay")), Some(vec!["agreed".to_owned()]));
    }

    #[test]
    fn so_many_are_remembered() {
        let mut stories = Stories::default();
        for number in 1..2 * STORIES_MAX as u128 {
            stories.tell(NodeId::new(number.to_be_bytes()).unwrap(), Vec::new());
        }
        assert_eq!(stories.0.len(), STORIES_MAX);
    }
}
