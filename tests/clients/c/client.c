/* A client on libgearman. Usage: client HOST PORT COMMAND [ARGUMENT...] */
#include <libgearman/gearman.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static gearman_client_st *client;

static void event(const char *name, gearman_task_st *task)
{
    printf("%s %.*s\n", name, (int)gearman_task_data_size(task), (const char *)gearman_task_data(task));
}

static gearman_return_t on_data(gearman_task_st *task)
{
    event("data", task);
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_warning(gearman_task_st *task)
{
    event("warning", task);
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_status(gearman_task_st *task)
{
    printf("status %u/%u\n", gearman_task_numerator(task), gearman_task_denominator(task));
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_complete(gearman_task_st *task)
{
    event("complete", task);
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_exception(gearman_task_st *task)
{
    event("exception", task);
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_fail(gearman_task_st *task)
{
    (void)task;
    puts("fail");
    return GEARMAN_SUCCESS;
}

static void check(gearman_return_t result, const char *what)
{
    if (gearman_failed(result)) {
        fprintf(stderr, "%s: %s\n", what, gearman_client_error(client));
        exit(1);
    }
}

static void run(const char *function, const char *workload, const char *unique)
{
    gearman_return_t result;
    gearman_client_set_data_fn(client, on_data);
    gearman_client_set_warning_fn(client, on_warning);
    gearman_client_set_status_fn(client, on_status);
    gearman_client_set_complete_fn(client, on_complete);
    gearman_client_set_exception_fn(client, on_exception);
    gearman_client_set_fail_fn(client, on_fail);
    gearman_client_add_task(client, NULL, NULL, function, unique, workload, strlen(workload), &result);
    check(result, "add task");
    check(gearman_client_run_tasks(client), "run tasks");
}

static void background(const char *function, const char *workload)
{
    gearman_job_handle_t handle;
    bool known = true, running = false, seen = false;
    uint32_t numerator = 0, denominator = 0;
    check(gearman_client_do_background(client, function, NULL, workload, strlen(workload), handle), "submit");
    puts("queued");
    for (;;) {
        check(gearman_client_job_status(client, handle, &known, &running, &numerator, &denominator), "status");
        if (!known)
            break;
        if (running && numerator > 0 && !seen) {
            printf("running %u/%u\n", numerator, denominator);
            seen = true;
        }
        usleep(10000);
    }
    puts("finished");
}

static void priorities(void)
{
    gearman_return_t result;
    gearman_job_handle_t handle;
    check(gearman_client_do_low_background(client, "order", NULL, "low background", 14, handle), "low background");
    check(gearman_client_do_background(client, "order", NULL, "normal background", 17, handle), "background");
    check(gearman_client_do_high_background(client, "order", NULL, "high background", 15, handle), "high background");
    gearman_client_set_complete_fn(client, on_complete);
    gearman_client_add_task_low(client, NULL, NULL, "order", NULL, "low", 3, &result);
    check(result, "low");
    gearman_client_add_task(client, NULL, NULL, "order", NULL, "normal", 6, &result);
    check(result, "normal");
    gearman_client_add_task_high(client, NULL, NULL, "order", NULL, "high", 4, &result);
    check(result, "high");
    check(gearman_client_run_tasks(client), "run tasks");
}

static void large(size_t size)
{
    static const char pattern[] = "0123456789abcdef";
    gearman_return_t code;
    size_t result_size = 0;
    bool right = true;
    char *workload = malloc(size);
    for (size_t i = 0; i < size; i++)
        workload[i] = pattern[i % 16];
    char *result = gearman_client_do(client, "reverse", NULL, workload, size, &result_size, &code);
    check(code, "reverse");
    for (size_t i = 0; i < result_size && i < size; i++)
        right = right && result[i] == workload[size - 1 - i];
    printf("complete %zu %s\n", result_size, right ? "reversed" : "wrong");
    free(result);
    free(workload);
}

static void repeat(void)
{
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        gearman_return_t code;
        size_t size = 0;
        char *result;
        line[strcspn(line, "\n")] = 0;
        for (;;) {
            result = gearman_client_do(client, "reverse", NULL, line, strlen(line), &size, &code);
            if (code == GEARMAN_SUCCESS)
                break;
            usleep(50000);
        }
        printf("complete %.*s\n", (int)size, result);
        free(result);
    }
}

int main(int count, char **arguments)
{
    if (count < 4)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *command = arguments[3];
    client = gearman_client_create(NULL);
    check(gearman_client_add_server(client, arguments[1], (in_port_t)atoi(arguments[2])), "add server");
    if (strcmp(command, "run") == 0 && count >= 6)
        run(arguments[4], arguments[5], count > 6 ? arguments[6] : NULL);
    else if (strcmp(command, "run-exceptions") == 0 && count == 6) {
        gearman_client_set_server_option(client, "exceptions", 10);
        run(arguments[4], arguments[5], NULL);
    } else if (strcmp(command, "background") == 0 && count == 6)
        background(arguments[4], arguments[5]);
    else if (strcmp(command, "priorities") == 0)
        priorities();
    else if (strcmp(command, "large") == 0 && count == 5)
        large(strtoul(arguments[4], NULL, 10));
    else if (strcmp(command, "repeat") == 0)
        repeat();
    else
        return 2;
    gearman_client_free(client);
    return 0;
}
