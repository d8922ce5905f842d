//! A hash table of first-in first-out lists, linked through the places of a slab. Entries of equal hash keep
//! their order; insertion and removal take constant time.

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    hash: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends { first: NONE, last: NONE };

#[derive(Debug)]
pub(super) struct Bins {
    bins: Vec<Ends>,
    links: Vec<Link>,
    len: usize,
    /// One list for all, in order of arrival.
    single: bool,
}

impl Bins {
    pub(super) fn new() -> Bins {
        Bins { bins: vec![EMPTY; 64], links: Vec::new(), len: 0, single: false }
    }

    /// One list, whatever the hashes.
    pub(super) fn single() -> Bins {
        Bins { bins: vec![EMPTY; 1], links: Vec::new(), len: 0, single: true }
    }

    /// Appends the place `index` to the list of `hash`.
    #[inline]
    pub(super) fn push(&mut self, index: u32, hash: u32) {
        if self.len >= self.bins.len() * 2 && !self.single {
            self.grow();
        }
        if index as usize >= self.links.len() {
            self.links.resize(index as usize + 1, Link { next: NONE, previous: NONE, hash: 0 });
        }
        self.append(index, hash);
        self.len += 1;
    }

    #[inline]
    fn append(&mut self, index: u32, hash: u32) {
        let bin = self.bin(hash);
        let last = std::mem::replace(&mut self.bins[bin].last, index);
        self.links[index as usize] = Link { next: NONE, previous: last, hash };
        match last {
            NONE => self.bins[bin].first = index,
            _ => self.links[last as usize].next = index,
        }
    }

    /// Takes the place `index`, which is in the table, out.
    #[inline]
    pub(super) fn remove(&mut self, index: u32) {
        let Link { next, previous, hash } = self.links[index as usize];
        let bin = self.bin(hash);
        match previous {
            NONE => self.bins[bin].first = next,
            _ => self.links[previous as usize].next = next,
        }
        match next {
            NONE => self.bins[bin].last = previous,
            _ => self.links[next as usize].previous = previous,
        }
        self.len -= 1;
    }

    /// The places whose hash falls into the same list, oldest first.
    #[inline]
    pub(super) fn list(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.bins[self.bin(hash)].first;
        std::iter::from_fn(move || {
            let here = at;
            at = self.links.get(here as usize)?.next;
            Some(here)
        })
    }

    #[inline]
    fn bin(&self, hash: u32) -> usize {
        hash as usize & (self.bins.len() - 1)
    }

    #[cold]
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.bins);
        self.bins = vec![EMPTY; old.len() * 4];
        for ends in old {
            let mut at = ends.first;
            while at != NONE {
                let Link { next, hash, .. } = self.links[at as usize];
                self.append(at, hash);
                at = next;
            }
        }
    }
}
