//! The examples of `docs/rules.md`: what the page shows is what `gridnet explain` prints.

use gridnet_assembly::choice::explain;
use gridnet_assembly::facts::Facts;
use gridnet_assembly::rules::{Pair, Rules, Scheme};
use gridnet_assembly::stack::{Filter, Method, Security};

const PAGE: &str = include_str!("../../docs/rules.md");

struct Example<'a> {
    title: &'a str,
    rules: &'a str,
    console: &'a str,
}

/// What stands between ```` ```kind ```` and the end of the block.
fn block<'a>(text: &'a str, kind: &str) -> &'a str {
    let open = format!("```{kind}\n");
    let start = text.find(&open).unwrap_or_else(|| panic!("no {kind} in {text}")) + open.len();
    text[start..].split("```").next().unwrap()
}

fn examples() -> Vec<Example<'static>> {
    let examples = PAGE.split("\n### ").skip(1);
    let example = |text: &'static str| Example {
        title: text.lines().next().unwrap(),
        rules: block(text, "toml"),
        console: block(text, "console"),
    };
    examples.map(example).collect()
}

/// What a command of the page prints.
fn run(command: &str, rules: &Rules) -> Vec<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let (from, to, service) = match words[..] {
        ["gridnet", "explain", from, to, "--rules", "rules.toml"] => (from, to, "default"),
        ["gridnet", "explain", from, to, "--rules", "rules.toml", "--service", service] => {
            (from, to, service)
        }
        _ => panic!("{command}: another form"),
    };
    let (from, to) = (Facts::describe(from).unwrap(), Facts::describe(to).unwrap());
    explain(rules, &Pair { from: &from, to: &to, service: &service.parse().unwrap() }, Security::Plain)
}

#[test]
fn each_example_prints_what_the_page_shows() {
    let examples = examples();
    assert_eq!(examples.len(), 10);
    for Example { title, rules, console } in examples {
        let rules: Rules = rules.parse().unwrap_or_else(|e| panic!("{title}: {e}"));
        let commands = console.split("$ ").skip(1);
        let mut count = 0;
        for (command, shown) in commands.map(|text| text.split_once('\n').unwrap()) {
            assert_eq!(run(command, &rules), shown.lines().collect::<Vec<_>>(), "{title}: {command}");
            count += 1;
        }
        assert!(count > 0, "{title} shows nothing");
    }
}

#[test]
fn the_page_knows_all_words() {
    let words = Method::ALL.map(Method::name).into_iter();
    let words = words.chain(Filter::ALL.map(Filter::name)).chain(Scheme::ALL.map(Scheme::name));
    for word in words.chain(Security::ALL.map(Security::name)) {
        assert!(PAGE.contains(&format!("\n| `{word}` |")), "no row for {word}");
    }
}
