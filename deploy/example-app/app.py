"""The smallest app beside a Weir: asks a question a minute and prints the answer and who gave it.

Nothing here knows of Weir but OPENAI_BASE_URL, which the client library reads by itself.
"""

import time

import openai

client = openai.OpenAI()
while True:
    answer = client.chat.completions.with_raw_response.create(
        model="auto",
        messages=[{"role": "user", "content": "What is the capital of France? Answer with one word."}],
    )
    text = answer.parse().choices[0].message.content
    print(f"{text}  ({answer.headers['x-weir-served-by']})", flush=True)
    time.sleep(60)
