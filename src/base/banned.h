/* Functions that have no safe use: naming one is a compile error. Included by every .c last. */
#pragma once

#ifndef __clang_analyzer__ /* where some of them are macros, which cannot be poisoned */
#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol gets localtime gmtime strncat
#endif
