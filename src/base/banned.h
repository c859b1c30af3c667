/* Functions that have no safe use: naming one is a compile error. Included by every .c last. */
#pragma once

#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol gets localtime gmtime strncat
