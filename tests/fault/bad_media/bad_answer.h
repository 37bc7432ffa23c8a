/* What a picture decoder does once a picture has taken it over, for tests: the picture's bytes say it.
 *
 * A file that has "BAD!probe NAME." or "BAD!decode NAME." in it makes that call do what NAME stands for (the table in bad_answer.c), inside
 * the real cage; any other picture is answered as always. What the cage should have stopped and did not is told by an ERR_INTERNAL that
 * says "escaped"; what it refuses without killing is followed by a fault, so that all ends are alike to the gateway. */
#ifndef SPILLWAY_TESTS_FAULT_BAD_ANSWER_H
#define SPILLWAY_TESTS_FAULT_BAD_ANSWER_H

#include "engine/media/media_wire.h"

MUST_USE int bad_answer(const struct media_request *q, struct media_reply *r, struct err *e);

#endif
