/* What the judge tries: a list for each kind. */
#ifndef CASES_H
#define CASES_H

#include "pair.h"

struct verbs_case {
    const char *name;
    void (*run)(struct pair *pair);
    struct rules rules;
    bool uncaptured; /* too big, or not the same each time */
    bool plain;      /* prints its own results: no completions, states or data after it */
};

extern const struct verbs_case data_cases[], error_cases[], state_cases[];

#endif
