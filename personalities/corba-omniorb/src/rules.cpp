#include "rules.h"

#include "log.h"
#include "place.h"

#include <cstring>
#include <transportRules.h>

namespace gridnet_giop {

namespace {

using omni::transportRules;

/* What omniORB has when nothing else was asked for. */
constexpr const char DEFAULT_RULE[] = "* unix,ssl,tcp";

class AnyAddress : public transportRules::Rule {
public:
    AnyAddress() : Rule("*") {}
    CORBA::Boolean match(const char *) override { return 1; }
};

void extend(transportRules &rules, const char *whose)
{
    CORBA::String_var first = rules.dumpRule(0), second = rules.dumpRule(1);
    const char *text = first;
    if (text == nullptr || std::strcmp(text, DEFAULT_RULE) != 0 || static_cast<const char *>(second) != nullptr) {
        log_line(10, std::string("the ") + whose + " transport rules were set, and stay: " + (text == nullptr ? "none" : text));
        return;
    }
    CORBA::StringSeq actions(4);
    actions.length(4);
    actions[0] = ACTION;
    actions[1] = static_cast<const char *>("unix");
    actions[2] = static_cast<const char *>("ssl");
    actions[3] = static_cast<const char *>("tcp");
    rules.reset();
    rules.addRule(new AnyAddress, actions);
}

} // namespace

void extend_default_rules()
{
    extend(transportRules::clientRules(), "client");
    extend(transportRules::serverRules(), "server");
}

} // namespace gridnet_giop
