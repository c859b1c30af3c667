/* The one start-up of libsodium. Threads: any, any number of times. */
#pragma once

/* Every public function of this room that uses the library calls it first. A system without randomness
 * ends the process. */
void crypto_sodium_init(void);
