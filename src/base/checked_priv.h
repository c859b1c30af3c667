/* Is this a build for finding mistakes? Then extra checks may cost time. */
#pragma once

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define AST_CHECKED_BUILD 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#undef AST_CHECKED_BUILD
#define AST_CHECKED_BUILD 1
#endif
#ifndef AST_CHECKED_BUILD
#define AST_CHECKED_BUILD 0
#endif

/* Under the address sanitizer a stale borrow of released memory is reported where it is used. */
#if defined(__SANITIZE_ADDRESS__)
#define AST_HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define AST_HAVE_ASAN 1
#endif
#endif
#ifdef AST_HAVE_ASAN
#include <sanitizer/asan_interface.h>
#define AST_POISON(p, n)   ASAN_POISON_MEMORY_REGION((p), (n))
#define AST_UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#define AST_POISON(p, n)   ((void)(p), (void)(n))
#define AST_UNPOISON(p, n) ((void)(p), (void)(n))
#endif
