/* astrid-build: a capsule project becomes a .capsule archive. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fs.h"
#include "build/project.h"

#include "base/banned.h"

static void print_help(FILE *to)
{
    fputs(
        "Builds a capsule project into a .capsule archive\n\n"
        "Usage: astrid-build [OPTIONS] [PATH]\n\n"
        "PATH is a folder with Capsule.toml [default: .]. C sources (*.c beside it, or in src/) are compiled to\n"
        "WebAssembly with clang; a folder whose component is already there is packed as it is.\n\n"
        "Options:\n"
        "  -o, --output <DIR>  where the archive goes [default: the current folder]\n"
        "  -h, --help          print this help\n"
        "  -V, --version       print the version\n",
        to);
}

static enum ast_rc build(const char *dir, const char *output, struct ast_err *err)
{
    AST_AUTO(build_project_done) struct build_project p = { 0 };
    AST_AUTO(ast_cfree) char *archive = NULL;
    bool wrapped = false;
    enum ast_rc rc = build_project_open(dir, &p, err);

    if (!rc && p.source_count) {
        fprintf(stderr, "compiling %s (%zu file%s)\n", p.manifest->name.p, p.source_count,
                p.source_count == 1 ? "" : "s");
        rc = build_project_compile(&p, err);
    }
    if (!rc)
        rc = build_project_wrap(&p, &wrapped, err);
    if (!rc)
        rc = build_project_pack(&p, output, &archive, err);
    if (!rc) {
        if (p.source_count)
            fprintf(stderr, "%s\n",
                    wrapped ? "wrapped into a component"
                            : "kept as a core module (it loads as a component does)");
        puts(archive);
    }
    return rc;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = { { "output", required_argument, NULL, 'o' },
                                           { "help", no_argument, NULL, 'h' },
                                           { "version", no_argument, NULL, 'V' },
                                           { NULL, 0, NULL, 0 } };
    const char *output = ".";
    struct ast_err err = AST_ERR_INIT;
    int c;

    while ((c = getopt_long(argc, argv, "o:hV", longs, NULL)) != -1) {
        switch (c) {
        case 'o': output = optarg; break;
        case 'h': print_help(stdout); return EXIT_SUCCESS;
        case 'V': puts("astrid-build 0.8.0"); return EXIT_SUCCESS;
        default: fputs("\nFor more information, try '--help'.\n", stderr); return 2;
        }
    }
    if (argc - optind > 1) {
        fprintf(stderr,
                "error: unexpected argument '%s' found\n\nFor more information, try '--help'.\n",
                argv[optind + 1]);
        return 2;
    }
    if (build(optind < argc ? argv[optind] : ".", output, &err)) {
        fprintf(stderr, "error: %s\n", err.msg);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
