/* Decode steps as CUDA graphs. A step in which all rows decode is the same list of kernels each time, but for its rows, the tasks of their attention
 * and the rows whose logits are wanted; everything else lies in device memory (plan.cu). These three are rounded up to powers of two,
 * and rows that are none fill up: they have no position, and nothing of theirs is stored. So steps of the same three are one graph.
 *
 * The first such step runs as it is: its kernels get loaded, and what comes once is not worth more. The second is recorded, later ones are
 * replayed: their operations only leave what the host has to say, and the head's ends with one copy and one launch. */
#include "kernels/cuda/cuda.cuh"

static size_t bucket(size_t n, size_t most)
{
    size_t b = 1;
    while (b < n) b *= 2;
    return b < most ? b : most;
}

static struct cuda_graph *find(struct device *d, const struct cuda_graph &like)
{
    for (size_t i = 0; i < d->n_graphs; i++) {
        struct cuda_graph *g = &d->graphs[i];
        if (g->rows == like.rows && g->tasks == like.tasks && g->heads == like.heads) return g;
    }
    return nullptr;
}

/* Of n_rows, n_tasks and n_heads as they are needed. */
int cuda_graph_choose(struct device *d, struct err *e)
{
    struct cuda_step *s = &d->step;
    const struct cuda_graph like = {bucket(s->n_rows, d->limits.max_rows), bucket(s->n_tasks, d->max_tasks), bucket(s->n_heads, d->limits.max_rows), nullptr, false};
    struct cuda_graph *g = find(d, like);
    if (!g && d->n_graphs == CUDA_GRAPHS) return 0;
    s->n_rows = s->n_decode = like.rows, s->n_tasks = like.tasks, s->n_heads = like.heads;
    if (!g) {
        d->graphs[d->n_graphs++] = like;
        return 0;
    }
    if (g->failed) return 0;
    s->graph = g;
    return g->exec ? 0 : cuda_check(d, "recording a step", cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), e);
}

/* Something failed between; the step is lost, and its sizes are not tried again. */
void cuda_graph_abandon(struct device *d)
{
    struct cuda_graph *g = d->step.graph;
    cudaGraph_t graph = nullptr;
    d->step.graph = nullptr;
    if (!g || g->exec) return;
    g->failed = true;
    if (cudaStreamEndCapture(d->stream, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaGetLastError(); /* what failed has been told */
}

static int end_recording(struct device *d, struct cuda_graph *g, struct err *e)
{
    cudaGraph_t graph = nullptr;
    int rc = cuda_check(d, "recording a step", cudaStreamEndCapture(d->stream, &graph), e);
    if (!rc) rc = cuda_check(d, "a recorded step", cudaGraphInstantiate(&g->exec, graph, 0), e);
    if (graph) cudaGraphDestroy(graph);
    g->failed = rc != 0;
    return rc;
}

/* Ends a step that has a graph. */
int cuda_graph_step(struct device *d, struct err *e)
{
    struct cuda_graph *g = d->step.graph;
    d->step.graph = nullptr;
    int rc = g->exec ? 0 : end_recording(d, g, e);
    if (!rc) rc = cuda_stage_all(d, e);
    if (!rc) rc = cuda_check(d, "a recorded step", cudaGraphLaunch(g->exec, d->stream), e);
    return rc ? rc : cuda_launched(d, "a recorded step", e);
}

void cuda_graph_close(struct device *d)
{
    for (size_t i = 0; i < d->n_graphs; i++)
        if (d->graphs[i].exec) cudaGraphExecDestroy(d->graphs[i].exec);
}
