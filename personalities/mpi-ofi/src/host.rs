//! Who has loaded this provider.

/// The file that is libfabric in this process, as the system names it; MPIs may have theirs in a library of their own.
pub(crate) fn libfabric() -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let found = ["/libfabric", "/libmpi"].into_iter().find_map(|name| file_of(&maps, name));
    found.unwrap_or("unknown").to_owned()
}

/// The first mapped file whose own name begins with `name`.
fn file_of<'a>(maps: &'a str, name: &str) -> Option<&'a str> {
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    files.into_iter().find(|file| file.rfind('/').is_some_and(|at| file[at..].starts_with(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_counts_and_not_that_of_its_folder() {
        let maps = "7f00-7f01 r--p 00000000 fe:00 12 /opt/libfabric/other.so\n\
                    7f01-7f02 r-xp 00000000 fe:00 13 /opt/a b/libfabric-6f.so.1.29\n\
                    7f02-7f03 rw-p 00000000 00:00 0\n";
        assert_eq!(file_of(maps, "/libfabric"), Some("/opt/a b/libfabric-6f.so.1.29"));
        assert_eq!(file_of(maps, "/libmpi"), None);
    }
}
