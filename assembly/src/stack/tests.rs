use super::*;
use proptest::prelude::*;

fn stack(text: &str) -> Stack {
    text.parse().unwrap()
}

#[test]
fn stacks_print_as_they_were_written() {
    for text in
        ["shm", "tcp", "relay", "tls/tcp", "tls/relay", "tls/shm", "tcp(streams=1)", "tls/tcp(streams=64)"]
    {
        assert_eq!(stack(text).to_string(), text);
    }
    let built = Stack::bare(Method::Tcp).under(Filter::Tls).unwrap();
    assert_eq!((built.to_string().as_str(), built.clone().under(Filter::Tls)), ("tls/tcp", None));
    assert!(stack("tls/tcp(streams=2)").is_like(&built) && !stack("tcp").is_like(&built));
}

#[test]
fn errors_say_where_and_what_is_accepted() {
    for (text, position, what) in [
        ("", 1, "a method is missing"),
        ("tls/", 5, "a method is missing"),
        ("tls", 4, "a method is missing below the filter tls"),
        ("tls/tpc", 5, "there is no method \"tpc\""),
        ("zip/tls/tcp", 1, "there is no filter \"zip\""),
        ("tls/tls/tcp", 5, "the filter tls is there twice"),
        ("tcp/tls", 1, "tcp is a method, which comes last"),
        ("tls()/tcp", 5, "the filter tls has no parameters"),
        ("shm(streams=1)", 5, "shm has no parameter \"streams\""),
        ("tls/tcp(lanes=1)", 9, "tcp has no parameter \"lanes\""),
        ("tcp()", 5, "a parameter is NAME=VALUE"),
        ("tcp(streams)", 5, "a parameter is NAME=VALUE"),
        ("tcp(streams=0)", 13, "streams is a number from 1 to 64"),
        ("tcp(streams=65)", 13, "streams is a number from 1 to 64"),
        ("tcp(streams=01)", 13, "streams is a number from 1 to 64"),
        ("tcp(streams=+1)", 13, "streams is a number from 1 to 64"),
        ("tcp(streams=1,streams=1)", 15, "streams is there twice"),
        ("tcp(streams=1", 14, "a closing parenthesis is missing"),
        ("tcp(streams=1))", 13, "streams is a number from 1 to 64"),
        ("tls/ tcp", 5, "there is no method \" tcp\""),
        ("größe/tcp", 1, "there is no filter \"größe\""),
        ("tls/größe(", 5, "there is no method \"größe\""),
    ] {
        let error = text.parse::<Stack>().unwrap_err();
        assert_eq!((error.position, error.what.as_str()), (position, what), "{text}");
        assert!(error.to_string().ends_with(FORM));
    }
    let long = format!("{}tcp", "tls/".repeat(STACK_BYTES_MAX));
    assert!(long.parse::<Stack>().unwrap_err().what.contains("at most 128"));
}

#[test]
fn levels_are_those_of_the_weakest_that_could_be_meant() {
    use Security::{Authenticated, Encrypted, Plain};
    for (text, levels) in [
        ("shm", [Encrypted, Authenticated, Plain]),
        ("tcp", [Plain; 3]),
        ("relay", [Plain; 3]),
        ("tls/shm", [Encrypted; 3]),
        ("tls/tcp(streams=4)", [Encrypted; 3]),
        ("tls/relay", [Encrypted; 3]),
    ] {
        let by_reach =
            [Reach::SameUser, Reach::SameHost, Reach::Apart].map(|reach| stack(text).security(reach));
        assert_eq!(by_reach, levels, "{text}");
        assert_eq!(stack(text).best_security(), levels[0]);
    }
    assert!(Plain < Authenticated && Authenticated < Encrypted);
}

fn any_stack() -> impl Strategy<Value = Stack> {
    let method = proptest::sample::select(Method::ALL.to_vec());
    let filters = proptest::sample::subsequence(Filter::ALL.to_vec(), 0..=Filter::ALL.len());
    (method, filters, proptest::option::of(1..=STREAMS_MAX)).prop_map(|(method, filters, streams)| Stack {
        filters,
        method,
        streams: streams.filter(|_| method == Method::Tcp),
    })
}

proptest! {
    #[test]
    fn each_stack_has_one_text(stack in any_stack()) {
        prop_assert_eq!(stack.to_string().parse::<Stack>(), Ok(stack));
    }

    #[test]
    fn any_text_is_a_stack_that_prints_so_or_none(text in "[a-z/()=,0-9 ]{0,30}|(tls/)?(tcp|shm|relay|tsl)(\\([a-z=0-9,]{0,12}\\)?)?|\\PC{0,20}") {
        match text.parse::<Stack>() {
            Ok(stack) => prop_assert_eq!(stack.to_string(), text),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.position)),
        }
    }
}
