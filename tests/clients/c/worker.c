/* A worker on libgearman. Usage: worker HOST PORT */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *copy(const char *text, size_t *size)
{
    *size = strlen(text);
    return strdup(text);
}

static void *reverse(gearman_job_st *job, void *context, size_t *size, gearman_return_t *result)
{
    const char *workload = gearman_job_workload(job);
    (void)context;
    *size = gearman_job_workload_size(job);
    char *reversed = malloc(*size + 1);
    for (size_t i = 0; i < *size; i++)
        reversed[i] = workload[*size - 1 - i];
    *result = GEARMAN_SUCCESS;
    return reversed;
}

static void *fail(gearman_job_st *job, void *context, size_t *size, gearman_return_t *result)
{
    (void)job;
    (void)context;
    *size = 0;
    *result = GEARMAN_WORK_FAIL;
    return NULL;
}

static void *exception(gearman_job_st *job, void *context, size_t *size, gearman_return_t *result)
{
    (void)context;
    *size = 0;
    *result = gearman_job_send_exception(job, gearman_job_workload(job), gearman_job_workload_size(job));
    return NULL;
}

static void *progress(gearman_job_st *job, void *context, size_t *size, gearman_return_t *result)
{
    (void)context;
    gearman_job_send_data(job, "one", 3);
    gearman_job_send_status(job, 1, 3);
    gearman_job_send_warning(job, "careful", 7);
    gearman_job_send_data(job, "two", 3);
    gearman_job_send_status(job, 2, 3);
    gearman_job_send_data(job, "three", 5);
    gearman_job_send_status(job, 3, 3);
    *result = GEARMAN_SUCCESS;
    return copy("done", size);
}

static void *order(gearman_job_st *job, void *context, size_t *size, gearman_return_t *result)
{
    (void)context;
    *size = gearman_job_workload_size(job);
    char *workload = malloc(*size + 1);
    memcpy(workload, gearman_job_workload(job), *size);
    printf("order %.*s\n", (int)*size, workload);
    *result = GEARMAN_SUCCESS;
    return workload;
}

/* The workload names a FIFO: the job ends when somebody has written into it, with what was written. */
static void *gate(gearman_job_st *job, void *context, size_t *size, gearman_return_t *result)
{
    char path[4096], content[4096];
    (void)context;
    gearman_job_send_status(job, 1, 2);
    puts("gate");
    snprintf(path, sizeof path, "%.*s", (int)gearman_job_workload_size(job), (const char *)gearman_job_workload(job));
    FILE *fifo = fopen(path, "r");
    if (fifo == NULL) {
        *result = GEARMAN_WORK_FAIL;
        return NULL;
    }
    content[fread(content, 1, sizeof content - 1, fifo)] = 0;
    fclose(fifo);
    *result = GEARMAN_SUCCESS;
    return copy(content, size);
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    gearman_worker_st *worker = gearman_worker_create(NULL);
    gearman_worker_add_server(worker, arguments[1], (in_port_t)atoi(arguments[2]));
    gearman_worker_add_function(worker, "reverse", 0, reverse, NULL);
    gearman_worker_add_function(worker, "fail", 0, fail, NULL);
    gearman_worker_add_function(worker, "exception", 0, exception, NULL);
    gearman_worker_add_function(worker, "progress", 0, progress, NULL);
    gearman_worker_add_function(worker, "order", 0, order, NULL);
    gearman_worker_add_function(worker, "gate", 0, gate, NULL);
    /* Without a server, the call returns at once and the library connects anew at the next one. */
    for (;;)
        if (gearman_failed(gearman_worker_work(worker)))
            usleep(50000);
}
