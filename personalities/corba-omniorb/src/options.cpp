#include "options.h"

#include <omniORB4/CORBA.h>
#include <orbOptions.h>

namespace gridnet_giop {

namespace {

using omni::orbOptions;

class Flag : public orbOptions::Handler {
public:
    Flag(const char *key, const char *usage, const char *argument, bool &value) : Handler(key, usage, 1, argument), value_(value) {}

    void visit(const char *value, orbOptions::Source) override
    {
        CORBA::Boolean flag;
        if (!orbOptions::getBoolean(value, flag))
            throw orbOptions::BadParam(key(), value, orbOptions::expect_boolean_msg);
        value_ = flag;
    }

    void dump(orbOptions::sequenceString &result) override { orbOptions::addKVBoolean(key(), value_, result); }

private:
    bool &value_;
};

class Number : public orbOptions::Handler {
public:
    Number(const char *key, const char *usage, const char *argument, std::uint32_t &value)
        : Handler(key, usage, 1, argument), value_(value)
    {
    }

    void visit(const char *value, orbOptions::Source) override
    {
        CORBA::ULong number;
        if (!orbOptions::getULong(value, number) || number == 0)
            throw orbOptions::BadParam(key(), value, orbOptions::expect_greater_than_zero_ulong_msg);
        value_ = number;
    }

    void dump(orbOptions::sequenceString &result) override { orbOptions::addKVULong(key(), value_, result); }

private:
    std::uint32_t &value_;
};

} // namespace

Options &options()
{
    static Options all;
    return all;
}

void register_options()
{
    static Flag rules("gridnetExtendRules", "gridnetExtendRules = 0 or 1", "-ORBgridnetExtendRules < 0 | 1 >",
                      options().extend_rules);
    static Number timeout("gridnetConnectTimeOut", "gridnetConnectTimeOut = n > 0 in msecs",
                          "-ORBgridnetConnectTimeOut < n > 0 in msecs >", options().connect_timeout_ms);
    static Number greeting("gridnetGreetingTimeOut", "gridnetGreetingTimeOut = n > 0 in msecs",
                           "-ORBgridnetGreetingTimeOut < n > 0 in msecs >", options().greeting_timeout_ms);
    static Flag report("gridnetReport", "gridnetReport = 0 or 1", "-ORBgridnetReport < 0 | 1 >", options().report);
    orbOptions::singleton().registerHandler(rules);
    orbOptions::singleton().registerHandler(timeout);
    orbOptions::singleton().registerHandler(greeting);
    orbOptions::singleton().registerHandler(report);
}

} // namespace gridnet_giop
